#!/usr/bin/env bash
# A rehearsal: a job in a federation of real FLARE processes on this machine, from prepare to clean.
set -euo pipefail

usage() {
  cat <<'HELP'
Usage: poc/run.sh JOB [options]

Runs a job folder (or the name of one under jobs/, or what `fedpartial bundle` wrote) in FLARE's POC mode: a server and
the job's sites as processes of this machine, with the certificates and the policies of a real federation.
Asks nothing, listens on localhost only, and leaves no process behind, however it ends.

The policy follows from the job. A job with a custom folder, such as an unedited one of jobs/, counts as one that brings its
code: policy byoc (no allow list of classes, FLARE's launcher without restarts). What `fedpartial bundle` writes has none:
policy reviewed, the one for hospitals.

  --port N           port of the server (default: any free one)
  --workspace DIR    new folder for kits and running federation (default: a temporary one); removed at the end
  --out DIR          new folder for the results (default: runs/poc-<job>-<time>)
  --site-config DIR  folder with <site>.json or sites/<site>.json; other sites use the phantom. Its external.json and
                     public.json (MMDS's images without labels) go to the server
  --timeout SECONDS  longest time for the job itself (default: 3600)
  --console          use FLARE's admin console instead of its command line; also aborts a second run of the job
  --keep             keep the workspace, to look around or to start the federation again
  --help             show this text

Exit codes: 0 the job was completed, report and model were downloaded; 1 it failed; 2 something given is wrong;
130 Ctrl-C; 143 ended by a signal.
HELP
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
job='' chosen_port=0 workspace='' out='' site_config='' timeout=3600 keep='' created='' finished='' kits='' id='' doing='preparations' console='' ended=0
id_pattern='[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}'

fail() { printf 'error: %s\n' "$2" >&2; exit "$1"; }
step() { doing=$*; printf '\n== %s (%ss)\n' "$*" "$SECONDS"; }

# Shows a command and runs it. In the background with a process group of its own, so that a signal to this script is
# acted on at once and Ctrl-C reaches this script only.
run() {
  printf '$' >&3; printf ' %q' "$@" >&3; printf '\n' >&3
  set -m; "$@" </dev/null & set +m
  wait "$!"
}

submit_wait_download() {  # with FLARE's command line
  step "submit $job"
  run nvflare --format json job submit -j "$job" --startup-kit "$kit_of_lead" >"$workspace/submitted.json"
  cat "$workspace/submitted.json"
  id=$(grep -oE "$id_pattern" "$workspace/submitted.json" | head -n 1)
  step "wait for job $id"
  set -m; python3 "$here/follow.py" "$kits/$server/$id" "${sites[@]}" </dev/null & follower=$!; set +m
  run nvflare job wait "$id" --timeout "$timeout" --interval 1 --startup-kit "$kit_of_lead" || ended=$?
  kill "$follower" && wait "$follower" || true
  ((ended != 3)) || run nvflare job abort "$id" --force --startup-kit "$kit_of_lead" || true
  step "download"
  run nvflare job download "$id" -o "$out" --startup-kit "$kit_of_lead" || ended=1
}

talk_to_the_console() {  # submit, wait, download in the admin console, and an abort
  step "admin console: submit, wait, download, submit again, abort"
  run python3 "$here/console.py" "$kit_of_lead" --user "$lead" --job "$job" --out "$out" --timeout "$timeout" || ended=1
  id=$(grep -oE "$id_pattern" "$out/console.txt" | head -n 1) || true
}

clean_up() {
  local code=$?
  trap '' INT TERM HUP
  set +e
  [[ -n $created ]] || exit "$code"
  case $code in 0 | 1 | 2 | 130 | 143) ;; *) printf 'error: "%s" ended with code %s\n' "$doing" "$code" >&2; code=1 ;; esac
  [[ -n $finished ]] || printf '\n== ending all processes\n'
  env -u FEDPARTIAL_RUN python3 -m fedpartial.cli.processes "$FEDPARTIAL_RUN" "$workspace" || code=1
  [[ -n $finished ]] || keep_logs
  if [[ -n $keep ]]; then printf 'kept: %s\n' "$workspace"; else rm -rf "$workspace"; fi
  exit "$code"
}

keep_logs() {
  local log
  for log in "$kits"/*/log.txt "$kits"/*/poc_console.log; do
    [[ -f $log ]] || continue
    mkdir -p "$out/logs" && cp "$log" "$out/logs/$(basename "$(dirname "$log")")-$(basename "$log")"
  done
  [[ ! -d $out/logs ]] || printf 'logs: %s\n' "$out/logs"
}

while (($#)); do
  case $1 in
    --help | -h) usage; exit 0 ;;
    --keep) keep=yes; shift; continue ;;
    --console) console=yes; shift; continue ;;
    --port | --workspace | --out | --site-config | --timeout) (($# > 1)) || fail 2 "$1 needs a value" ;;&
    --port) chosen_port=$2 ;;
    --workspace) workspace=$2 ;;
    --out) out=$2 ;;
    --site-config) site_config=$2 ;;
    --timeout) timeout=$2 ;;
    -*) fail 2 "unknown option $1; see --help" ;;
    *) [[ -z $job ]] || fail 2 "more than one JOB: $job and $1"; job=$1; shift; continue ;;
  esac
  shift 2
done
[[ -n $job ]] || fail 2 "which JOB? See --help"
[[ $timeout =~ ^[1-9][0-9]*$ ]] || fail 2 "--timeout: got $timeout; expected a number of seconds"
out=$(realpath -m "${out:-runs/poc-$(basename "$job")-$(date +%Y%m%d-%H%M%S)}")
[[ ! -e $out ]] || fail 2 "--out: $out exists; name a new folder"
workspace=$(realpath -m "${workspace:-${TMPDIR:-/tmp}/fedpartial-poc-$$-$RANDOM}")
[[ ! -e $workspace ]] || fail 2 "--workspace: $workspace exists; name a new folder"
[[ $out/ != "$workspace"/* ]] || fail 2 "--out: $out lies inside the workspace, which is removed at the end"
[[ $workspace != *[[:space:]]* ]] || fail 2 "--workspace: FLARE cannot start from a path with spaces: $workspace"

python3 -c 'import fedpartial, importlib.metadata as m; m.version("nvflare")' 2>/dev/null && command -v nvflare fedpartial >/dev/null ||
  fail 2 "python3 cannot import fedpartial and nvflare; activate the environment of README.md"

exec 3>&1
export FEDPARTIAL_RUN="poc-$$-$RANDOM$RANDOM"  # every process of this rehearsal inherits it; clean_up finds them by it
trap 'exit 130' INT
trap 'exit 143' TERM HUP
mkdir -p "$workspace"
created=yes
trap clean_up EXIT

run python3 "$here/plan.py" "$job" --base "$here/../provision/project.yml" --workspace "$workspace" --port "$chosen_port" \
  ${site_config:+--site-config "$site_config"} >"$workspace/plan.sh" 3>/dev/null
source "$workspace/plan.sh"
export FEDPARTIAL_CACHE HOME="$workspace/home" NVFLARE_POC_WORKSPACE="$workspace/poc"
export FEDPARTIAL_HOME="$HOME/fedpartial"  # the models of MMDS's sites: never those that the user's own sites keep
mkdir "$HOME"
kits=$NVFLARE_POC_WORKSPACE/$name/prod_00
kit_of_lead=$kits/$lead

step "prepare: kits for server, lead and ${sites[*]}, on port $port, policy $policy"
printf '$ export HOME=%q NVFLARE_POC_WORKSPACE=%q\n' "$HOME" "$NVFLARE_POC_WORKSPACE"
run nvflare poc prepare -i "$workspace/project.yml" --force
for participant in "$server" "${sites[@]}"; do
  file=$site_files/$participant.json
  [[ -n $site_files && -f $file ]] || file=''
  run fedpartial setup-kit "$kits/$participant" --policy "$policy" ${file:+--site-file "$file"} >/dev/null
done
for file in "${server_files[@]}"; do
  [[ -f $site_files/$file.json ]] || continue
  mkdir -p "$kits/$server/local/sites"
  run cp "$site_files/$file.json" "$kits/$server/local/sites/"
done

step "start"
run nvflare poc start --timeout 180

if [[ -n $console ]]; then talk_to_the_console; else submit_wait_download; fi

if ((ended)); then
  step "the job failed"
  python3 "$here/outcome.py" reasons "$kits" "$id"
  exit 1
fi

step "report"
run python3 "$here/outcome.py" report "$out/$id" || exit 1

step "stop: every site and the server, each for itself as in a real federation"
run nvflare poc stop $(printf -- '-p %s ' "${sites[@]}" "$server")
if [[ -z $keep ]]; then
  step "clean"
  run nvflare poc clean
fi
finished=yes
printf '\ndone in %ss: %s\n' "$SECONDS" "$out/$id/workspace/app_server/report.html"
