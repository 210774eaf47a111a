"""Everything that can be wrong with a job folder, and where it differs from jobs/fedavg."""

from __future__ import annotations

import importlib
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path

from fedpartial.errors import ConfigError
from fedpartial.flare.standalone import NoAggregation
from fedpartial.phantom import PHANTOM_POOLS
from fedpartial.presets import get_preset

JOBS_DIR = Path(__file__).parents[1] / "jobs"
JOBS = sorted(folder for folder in JOBS_DIR.iterdir() if folder.is_dir() and not folder.name.startswith("."))
REFERENCE = JOBS_DIR / "fedavg"
SITES, FULL = sorted(PHANTOM_POOLS["central"]), "full"
POOLED = {"central", "central_plain", "segviz_central", "psmos_central", "mmds_central"}
"""Jobs of one site that holds the data of all."""

META, SERVER, CLIENT = "meta.json", "app/config/config_fed_server.json", "app/config/config_fed_client.json"
CONFIGS = (META, SERVER, CLIENT)
FILES = {"README.md", *CONFIGS, "app/custom/README.md"}
FRONT_MATTER = {"title", "paper", "labels", "limit"}
SYSTEM_VARIABLES = {"SITE_NAME", "WORKSPACE", "JOB_ID", "ROOT_URL", "SECURE_MODE"}
FLARE_KEYS = {"format_version", "executors", "workflows", "components", "task_data_filters", "task_result_filters"}


OTHER_LENGTH = {
    ("psmos_pretrain", "num_rounds"),
    *(
        (job, name)
        for job in ("psmos_central", "mmds_fedavg", "mmds_central")
        for name in ("num_rounds", "local_steps")
    ),
}
"""Only a part of the run that the preset is sized for; the paper's share of pretraining; rounds for as many steps as a
site of MMDS takes alone."""
STAGES = {1: ["pancreas", "spleen"], 2: ["kidney"], 3: ["liver"], 4: ["amos"], 5: ["amos"]}
"""Who takes part in the stages of MMDS (METHODS 4.4)."""

# --- reading ------------------------------------------------------------------------------------------


def read(path: Path) -> dict:
    """Strict JSON: no comments, no key twice, no NaN."""

    def unique(pairs: list) -> dict:
        names = [name for name, _ in pairs]
        if len(set(names)) != len(names):
            raise ValueError(f"{path.name}: a key stands twice among {names}")
        return dict(pairs)

    def no_constant(name: str) -> None:
        raise ValueError(f"{path.name}: {name} is no JSON")

    return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=unique, parse_constant=no_constant)


def values(given: object, pointer: str = "") -> Iterator[tuple[str, object]]:
    """(JSON pointer, value) of everything in ``given``, containers included."""
    yield pointer, given
    for name, value in named(given):
        yield from values(value, f"{pointer}/{name}")


def named(given: object) -> list[tuple[str, object]]:
    if isinstance(given, dict):
        return list(given.items())
    if isinstance(given, list):
        return [(v["id"] if isinstance(v, dict) and "id" in v else str(i), v) for i, v in enumerate(given)]
    return []


def built_classes(config: dict) -> list[tuple[str, dict]]:
    """(JSON pointer, {"path", "args"}) of everything that FLARE builds from a config."""
    return [(p, v) for p, v in values(config) if isinstance(v, dict) and "path" in v]


def load_class(path: str) -> type:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


# --- faults -------------------------------------------------------------------------------------------


def faults(job: Path) -> list[str]:
    """Everything wrong with one job folder, one line each."""
    missing = sorted(name for name in FILES if not (job / name).is_file())
    if missing:
        return [f"missing file {name}" for name in missing]
    try:
        configs = {name: read(job / name) for name in CONFIGS}
    except ValueError as error:
        return [f"unreadable JSON: {error}"]
    found = front_matter_faults(job) + meta_faults(job, configs[META])
    for name in (SERVER, CLIENT):
        checks = (variable_faults, class_faults, id_faults, value_faults)
        found += [f"{name}{fault}" for check in checks for fault in check(configs[name])]
    found += path_faults(configs) + plan_faults(job, configs[SERVER])
    whole = (client_faults, standalone_faults, head_faults, later_task_faults, pretraining_faults)
    return found + [fault for check in whole for fault in check(configs)]


def front_matter_faults(job: Path) -> list[str]:
    text = (job / "README.md").read_text(encoding="utf-8")
    block = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    if block is None:
        return ["README.md: no front matter"]
    lines = [line.partition(": ") for line in block[1].splitlines()]
    given = {key for key, _, value in lines if value.strip()}
    found = [f"README.md: front matter without {key}" for key in sorted(FRONT_MATTER - given)]
    commands = (f"nvflare simulator jobs/{job.name}", f"fedpartial run jobs/{job.name}")
    return found + [
        f"README.md: no command {c!r}" for c in commands if not re.search(rf"^    {c}\b", text, re.MULTILINE)
    ]


def meta_faults(job: Path, meta: dict) -> list[str]:
    found = []
    if meta.get("name") != job.name:
        found.append(f"{META}#/name: {meta.get('name')!r}")
    sites = sites_of(job.name)
    if meta.get("deploy_map") != {"app": ["server", *sites]}:
        found.append(f"{META}#/deploy_map: {meta.get('deploy_map')}")
    if meta.get("min_clients") != len(sites):
        found.append(f"{META}#/min_clients: {meta.get('min_clients')}")
    return found


def sites_of(job: str) -> list[str]:
    """The sites that a job of this collection names."""
    if job in POOLED:
        return [job if job in PHANTOM_POOLS else "central"]
    if job.startswith("mmds_stage"):
        return STAGES[int(job[-1])]
    if job in ("mmds_evaluate", "mmds_fedavg"):
        return sorted([*SITES, "amos"])
    if job == "psmos_pretrain":
        return [FULL]
    return sorted([*SITES, FULL]) if job.startswith(("psmos", "fedmenu")) else SITES


def client_faults(configs: dict[str, dict]) -> list[str]:
    """FLARE's scheduler and our rounds need the same number of sites."""
    given = configs[SERVER].get("min_clients")
    return [] if given == configs[META].get("min_clients") else [f"{SERVER}#/min_clients: {given}; meta.json says else"]


def standalone_faults(configs: dict[str, dict]) -> list[str]:
    """Sites keep their own models exactly where nothing is aggregated; only cross_site reports them."""
    paths = {entry["path"]: entry.get("args", {}) for _, entry in built_classes(configs[SERVER])}
    alone = f"{NoAggregation.__module__}.{NoAggregation.__name__}" in paths
    learners = [e for e in configs[CLIENT].get("components", []) if e.get("id") == "learner"]
    start = [e.get("args", {}).get("start_from", "global") for e in learners]
    found = [f"{CLIENT}#/components/learner/args/start_from: {s}" for s in start if (s == "local") != alone]
    final = next((args for path, args in paths.items() if path.endswith(".FinalEvaluation")), {})
    if alone and not private_heads(configs) and final.get("cross_site") is not True:
        found.append(f"{SERVER}#/workflows/final_evaluation/args/cross_site: {final.get('cross_site')}")
    return found


def private_heads(configs: dict[str, dict]) -> bool:
    return configs[SERVER].get("exchange", "all") != "all"


def head_faults(configs: dict[str, dict]) -> list[str]:
    """What goes with private heads, and only with them: their objective, tasks and collection, and no local models."""
    server, client = ({entry["path"]: entry for _, entry in built_classes(configs[n])} for n in (SERVER, CLIENT))
    parts = {
        f"{SERVER}#/workflows: HeadCollection": any(path.endswith(".HeadCollection") for path in server),
        f"{CLIENT}#/components/learner/args/method: SegViz": "fedpartial.methods.segviz.SegViz" in client,
        f"{CLIENT}#/executors/0/tasks: fine_tune, collect": {"fine_tune", "collect"}
        <= {task for executor in configs[CLIENT]["executors"] for task in executor["tasks"]},
        f"{SERVER}#/workflows/final_evaluation/args/cross_site: false": any(
            path.endswith(".FinalEvaluation") and entry["args"].get("cross_site") is False
            for path, entry in server.items()
        ),
    }
    needed = private_heads(configs)
    if not needed:
        parts.pop(f"{SERVER}#/workflows/final_evaluation/args/cross_site: false")
    found = [
        f"{place} {'missing' if needed else 'without private heads'}" for place, has in parts.items() if has != needed
    ]
    order = [entry["path"].rpartition(".")[2] for entry in configs[SERVER]["workflows"]]
    if needed and order != ["FederatedRounds", "HeadCollection", "FinalEvaluation"]:
        found.append(f"{SERVER}#/workflows: {order}")
    return found


LATER_TASKS = {"fine_tune", "collect", "adapt", "learn", "receive"}


def later_task_faults(configs: dict[str, dict]) -> list[str]:
    """FLARE's own executor answers a task after the rounds with an error; ours runs them."""
    found = []
    for executor in configs[CLIENT]["executors"]:
        ours = executor["executor"]["path"].endswith(".SiteExecutor")
        if ours != bool(LATER_TASKS & set(executor["tasks"])):
            found.append(f"{CLIENT}#/executors: {executor['executor']['path']} for {executor['tasks']}")
    adapts = any(entry["path"].endswith(".SiteAdaptation") for _, entry in built_classes(configs[SERVER]))
    if adapts != any("adapt" in executor["tasks"] for executor in configs[CLIENT]["executors"]):
        found.append(f"{CLIENT}#/executors/0/tasks: adapt")
    return found


def pretraining_faults(configs: dict[str, dict]) -> list[str]:
    """The sites that pretrain take part in the job."""
    sites = configs[META]["deploy_map"]["app"]
    strangers = set(configs[SERVER].get("pretrain_sites", [])) - set(sites)
    return [f"{SERVER}#/pretrain_sites: {sorted(strangers)}"] if strangers else []


def variable_faults(config: dict) -> list[str]:
    """FLARE turns an undefined variable into None without a word; one that nobody uses is a misspelt one."""
    defined = set(config) - FLARE_KEYS
    used, found = set(), []
    for pointer, value in values(config):
        for name in re.findall(r"{([^{}]*)}", value) if isinstance(value, str) else ():
            used.add(name)
            if name not in defined | SYSTEM_VARIABLES and not name.startswith("$"):
                found.append(f"#{pointer}: undefined variable {name!r}")
    return found + [f"#/{name}: nobody uses it" for name in sorted(defined - used)]


def class_faults(config: dict) -> list[str]:
    found = []
    for pointer, entry in built_classes(config):
        try:
            inspect.signature(load_class(entry["path"])).bind(**entry.get("args", {}))
        except (ImportError, AttributeError, TypeError, ValueError) as error:
            found.append(f"#{pointer}: {entry['path']}: {error}")
    return found


def id_faults(config: dict) -> list[str]:
    """Components are found by id at run time: given ids and the defaults of those left out must exist."""
    ids = [entry["id"] for _, entry in values(config) if isinstance(entry, dict) and "id" in entry]
    found = [f"#: id {name!r} stands twice" for name in sorted({n for n in ids if ids.count(n) > 1})]
    for pointer, entry in built_classes(config):
        try:
            parameters = inspect.signature(load_class(entry["path"])).parameters.values()
        except (ImportError, AttributeError, ValueError):
            continue
        defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
        for name, value in {**defaults, **entry.get("args", {})}.items():
            if name.endswith("_id") and value and value not in ids:
                found.append(f"#{pointer}/args/{name}: no component {value!r}")
    return found


def value_faults(config: dict) -> list[str]:
    """Builds our own classes with their values, as FLARE does."""
    found = []
    for pointer, entry in built_classes(config):
        if entry["path"].startswith("fedpartial."):
            try:
                build(entry, config)
            except (ConfigError, TypeError, ValueError, ImportError, AttributeError) as error:
                found.append(f"#{pointer}: {type(error).__name__}: {error}")
    return found


def build(given: object, config: dict) -> object:
    if isinstance(given, dict) and "path" in given:
        return load_class(given["path"])(**{k: build(v, config) for k, v in given.get("args", {}).items()})
    if isinstance(given, str) and (variable := re.fullmatch(r"{(\w+)}", given)):
        return config.get(variable[1])
    return given


def path_faults(configs: dict[str, dict]) -> list[str]:
    return [
        f"{name}#{pointer}: absolute path {value!r}"
        for name, config in configs.items()
        for pointer, value in values(config)
        if isinstance(value, str) and re.match(r"[/~\\]|[A-Za-z]:[\\/]", value)
    ]


def plan_faults(job: Path, server: dict) -> list[str]:
    """A job runs the preset of its network as it was sized, under its own name."""
    plan = next((entry["args"] for entry in server["components"] if entry["id"] == "plan"), {})
    found = [] if plan.get("job") == job.name else [f"{SERVER}#/components/plan/args/job: {plan.get('job')!r}"]
    family = job.name.partition("_")[0]
    expected = {name: f"phantom_{name}" for name in ("segviz", "psmos", "mmds")} | {"fedmenu": "phantom_menu"}
    expected = expected.get(family, "phantom")
    if server.get("preset") != expected:
        return [*found, f"{SERVER}#/preset: {server.get('preset')!r}"]
    preset = get_preset(expected)
    for name in ("num_rounds", "local_steps", *(n for n in ("finetune_steps", "distil_steps") if n in server)):
        if server.get(name) != getattr(preset, name) and (job.name, name) not in OTHER_LENGTH:
            found.append(f"{SERVER}#/{name}: {server.get(name)}; the preset is sized for {getattr(preset, name)}")
        if name != "distil_steps" and plan.get(name) != f"{{{name}}}":
            found.append(f"{SERVER}#/components/plan/args/{name}: {plan.get(name)!r}")
    return found


# --- differences --------------------------------------------------------------------------------------


def differences(a: object, b: object, pointer: str = "") -> set[str]:
    """JSON pointers at which two configs differ."""
    if type(a) is not type(b) or not isinstance(a, dict | list):
        return set() if a == b and type(a) is type(b) else {pointer}
    if isinstance(a, dict) and a.get("path") != b.get("path"):
        return {f"{pointer}/path", f"{pointer}/args"}
    ours, theirs = dict(named(a)), dict(named(b))
    found = {f"{pointer}/{name}" for name in ours.keys() ^ theirs.keys()}
    for name in ours.keys() & theirs.keys():
        found |= differences(ours[name], theirs[name], f"{pointer}/{name}")
    return found


def differences_of(job: Path, reference: Path = REFERENCE) -> set[str]:
    return {f"{n}#{p}" for n in CONFIGS for p in differences(read(job / n), read(reference / n))}
