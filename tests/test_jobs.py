"""Every job folder is complete, can be built, and differs from jobs/fedavg only where a table says so."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fedpartial.errors import ConfigError
from fedpartial.flare.standalone import NoAggregation
from fedpartial.phantom import PHANTOM_SITES
from fedpartial.presets import get_preset

JOBS_DIR = Path(__file__).parents[1] / "jobs"
JOBS = sorted(folder for folder in JOBS_DIR.iterdir() if folder.is_dir() and not folder.name.startswith("."))
REFERENCE = JOBS_DIR / "fedavg"
SITES = sorted(set(PHANTOM_SITES) - {"external"})
POOLED = {"central", "central_plain"}
"""Jobs of one site that holds the data of all."""

META, SERVER, CLIENT = "meta.json", "app/config/config_fed_server.json", "app/config/config_fed_client.json"
CONFIGS = (META, SERVER, CLIENT)
FILES = {"README.md", *CONFIGS, "app/custom/README.md"}
FRONT_MATTER = {"title", "paper", "labels", "limit"}
SYSTEM_VARIABLES = {"SITE_NAME", "WORKSPACE", "JOB_ID", "ROOT_URL", "SECURE_MODE"}
FLARE_KEYS = {"format_version", "executors", "workflows", "components", "task_data_filters", "task_result_filters"}

NAME = {"meta.json#/name", f"{SERVER}#/components/plan/args/job"}
GENERATOR = {f"{SERVER}#/components/shareable_generator/{part}" for part in ("path", "args")}
METHOD = f"{CLIENT}#/components/learner/args/method"
OTHER_METHOD = {f"{METHOD}/path", f"{METHOD}/args"}
ONE_SITE = {
    *(f"meta.json#/deploy_map/app/{place}" for place in (1, 2, 3, 4)),
    "meta.json#/min_clients",
    f"{SERVER}#/min_clients",
}

ALLOWED_DIFFERENCES = {
    "fedavg": set(),
    "fedavg_plain": {*NAME, f"{METHOD}/args/unlabelled"},
    "fedprox": {*NAME, *OTHER_METHOD},
    "fedopt": {*NAME, *GENERATOR},
    "condistfl": {*NAME, *GENERATOR, *OTHER_METHOD},
    "condistfl_upstream": {*NAME, *GENERATOR, *OTHER_METHOD},
    "condistfl_union": {*NAME, *GENERATOR, *OTHER_METHOD, f"{SERVER}#/components/plan/args/merge_lesions"},
    "standalone": {
        *NAME,
        *GENERATOR,
        f"{METHOD}/args/unlabelled",
        f"{METHOD}/args/absent_class",
        f"{CLIENT}#/components/learner/args/start_from",
    },
    "central": {*NAME, *ONE_SITE},
    "central_plain": {*NAME, *ONE_SITE, f"{METHOD}/args/unlabelled"},
}
"""Job -> file#JSON pointer of every value that differs from jobs/fedavg. An entry of a list that has an "id" goes by
that id; "args" is compared as one value where "path" differs too."""


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
    return found + client_faults(configs) + standalone_faults(configs)


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
    sites = ["central"] if job.name in POOLED else SITES
    if meta.get("deploy_map") != {"app": ["server", *sites]}:
        found.append(f"{META}#/deploy_map: {meta.get('deploy_map')}")
    if meta.get("min_clients") != len(sites):
        found.append(f"{META}#/min_clients: {meta.get('min_clients')}")
    return found


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
    if alone and final.get("cross_site") is not True:
        found.append(f"{SERVER}#/workflows/final_evaluation/args/cross_site: {final.get('cross_site')}")
    return found


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
    """A job runs the preset as it was sized, under its own name."""
    plan = next((entry["args"] for entry in server["components"] if entry["id"] == "plan"), {})
    found = [] if plan.get("job") == job.name else [f"{SERVER}#/components/plan/args/job: {plan.get('job')!r}"]
    if server.get("preset") != "phantom":
        return [*found, f"{SERVER}#/preset: {server.get('preset')!r}"]
    preset = get_preset("phantom")
    for name in ("num_rounds", "local_steps"):
        if server.get(name) != getattr(preset, name):
            found.append(f"{SERVER}#/{name}: {server.get(name)}; the preset is sized for {getattr(preset, name)}")
        if plan.get(name) != f"{{{name}}}":
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


# --- the jobs of this collection ----------------------------------------------------------------------


def test_there_are_jobs_to_check():
    assert len(JOBS) == 10
    assert {job.name for job in JOBS} == set(ALLOWED_DIFFERENCES)
    assert set(ALLOWED_DIFFERENCES) > POOLED


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_a_job_has_no_fault(job):
    assert faults(job) == []


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_a_job_differs_from_fedavg_only_where_the_table_says(job):
    assert job.name in ALLOWED_DIFFERENCES, f"give jobs/{job.name} a row in ALLOWED_DIFFERENCES"
    assert differences_of(job) == ALLOWED_DIFFERENCES[job.name]


def test_what_kind_of_job_each_one_is():
    """Which jobs aggregate nothing, merge lesions or pool the data, as the JSON says it."""
    kinds = {"NoAggregation": set(), "merge_lesions": set(), '"local"': set(), '"central"': set()}
    for job in JOBS:
        text = "".join((job / name).read_text(encoding="utf-8") for name in CONFIGS)
        for kind, found in kinds.items():
            if kind in text:
                found.add(job.name)
    assert kinds == {
        "NoAggregation": {"standalone"},
        '"local"': {"standalone"},
        "merge_lesions": {"condistfl_union"},
        '"central"': POOLED,
    }


def test_fedopt_has_the_server_of_condistfl_and_the_sites_of_fedavg():
    """Its README says that the two differ in the distillation alone; a copy of a number would go its own way."""
    fedopt, condistfl = (JOBS_DIR / name for name in ("fedopt", "condistfl"))
    assert differences_of(fedopt, condistfl) == {*NAME, *OTHER_METHOD}
    assert read(fedopt / CLIENT) == read(REFERENCE / CLIENT)
    assert differences_of(JOBS_DIR / "condistfl_union", condistfl) == {
        *NAME,
        f"{SERVER}#/components/plan/args/merge_lesions",
    }


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_every_class_of_a_job_is_found(job):
    """The checks above loop over these; an empty loop would pass."""
    server, client = (built_classes(read(job / name)) for name in (SERVER, CLIENT))
    assert len(server) >= 8
    assert len(client) >= 3


def test_the_custom_folder_holds_no_code():
    found = [path for job in JOBS for path in (job / "app" / "custom").rglob("*") if path.is_file()]
    assert {path.name for path in found} == {"README.md"}
    assert len(found) == len(JOBS)


# --- the checks themselves ----------------------------------------------------------------------------


def change(name: str, edit: Callable[[dict], object]) -> Callable[[Path], None]:
    """Edits one of a job's JSON files."""

    def apply(job: Path) -> None:
        config = read(job / name)
        edit(config)
        (job / name).write_text(json.dumps(config))

    return apply


def replace_text(name: str, old: str, new: str) -> Callable[[Path], None]:
    def apply(job: Path) -> None:
        text = (job / name).read_text(encoding="utf-8")
        assert old in text
        (job / name).write_text(text.replace(old, new, 1), encoding="utf-8")

    return apply


def component(config: dict, name: str) -> dict:
    return next(entry for entry in config["components"] if entry["id"] == name)


def learner_args(config: dict) -> dict:
    return component(config, "learner")["args"]


SPOILERS = {
    "a missing README": (lambda job: (job / "README.md").unlink(), "missing file README.md"),
    "a missing custom folder": (lambda job: shutil.rmtree(job / "app/custom"), "missing file app/custom/README.md"),
    "no front matter": (replace_text("README.md", "---\n", ""), "no front matter"),
    "no paper": (replace_text("README.md", "paper: ", "article: "), "without paper"),
    "no limit": (replace_text("README.md", "limit: ", "limits: "), "without limit"),
    "a comment": (replace_text(SERVER, "{", "{ // rounds"), "unreadable JSON"),
    "a key twice": (replace_text(SERVER, '"seed": 0,', '"seed": 0, "seed": 1,'), "stands twice"),
    "another name": (change(META, lambda c: c.update(name="tiny")), "#/name"),
    "a forgotten site": (change(META, lambda c: c["deploy_map"]["app"].remove("spleen")), "#/deploy_map"),
    "too few clients": (change(META, lambda c: c.update(min_clients=1)), "meta.json#/min_clients"),
    "other clients in the rounds": (change(SERVER, lambda c: c.update(min_clients=1)), f"{SERVER}#/min_clients"),
    "no command of FLARE": (replace_text("README.md", "nvflare simulator jobs/fedavg", "nvflare"), "'nvflare simul"),
    "no command of ours": (
        replace_text("README.md", "fedpartial run jobs/fedavg", "fedpartial run"),
        "'fedpartial run",
    ),
    "a command of another job": (
        replace_text("README.md", "run jobs/fedavg ", "run jobs/fedavg_plain "),
        "'fedpartial run",
    ),
    "sites alone and a mean": (
        change(CLIENT, lambda c: learner_args(c).update(start_from="local")),
        "start_from: local",
    ),
    "a wrong start": (change(CLIENT, lambda c: learner_args(c).update(start_from="own")), "ConfigError"),
    "an undefined variable": (change(SERVER, lambda c: c.pop("seed")), "undefined variable 'seed'"),
    "a misspelt variable": (change(SERVER, lambda c: c.update(lokal_steps=3)), "nobody uses it"),
    "a missing class": (
        change(SERVER, lambda c: component(c, "plan").update(path="fedpartial.flare.plan.Plans")),
        "Plans",
    ),
    "a missing module": (
        change(SERVER, lambda c: component(c, "scalars").update(path="nvflare.nowhere.X")),
        "nowhere",
    ),
    "an unknown argument": (
        change(SERVER, lambda c: component(c, "aggregator")["args"].update(weights=1)),
        "'weights'",
    ),
    "an unknown nested argument": (
        change(CLIENT, lambda c: component(c, "learner")["args"]["method"]["args"].update(tau=1)),
        "/learner/args/method",
    ),
    "a missing argument": (change(SERVER, lambda c: component(c, "plan")["args"].pop("job")), "'job'"),
    "an unknown component": (change(CLIENT, lambda c: c["components"].pop(0)), "no component 'learner'"),
    "a renamed component": (change(SERVER, lambda c: component(c, "recorder").update(id="record")), "'recorder'"),
    "an id twice": (change(SERVER, lambda c: c["components"].append(c["components"][0])), "stands twice"),
    "a wrong option": (
        change(SERVER, lambda c: component(c, "aggregator")["args"].update(weighting="x")),
        "ConfigError",
    ),
    "an absolute path": (
        change(SERVER, lambda c: component(c, "persistor")["args"].update(start_from="/data/m.safetensors")),
        "absolute path '/data/m.safetensors'",
    ),
    "other rounds": (change(SERVER, lambda c: c.update(num_rounds=99)), "the preset is sized for"),
    "another preset": (change(SERVER, lambda c: c.update(preset="abdomen")), "#/preset"),
    "rounds of its own": (
        change(SERVER, lambda c: component(c, "plan")["args"].update(num_rounds=8)),
        "plan/args/num_rounds",
    ),
}


@pytest.mark.parametrize("spoiler", SPOILERS)
def test_the_check_itself_sees_every_kind_of_fault(tmp_path, spoiler):
    job = tmp_path / "fedavg"
    shutil.copytree(REFERENCE, job)
    assert faults(job) == []
    spoil, expected = SPOILERS[spoiler]
    spoil(job)
    assert [fault for fault in faults(job) if expected in fault]


def every_site(meta: dict) -> None:
    meta.update(min_clients=4, deploy_map={"app": ["server", *SITES]})


SPOILERS_OF_OTHERS = {
    "sites take a model that nobody makes": (
        "standalone",
        change(CLIENT, lambda c: learner_args(c).pop("start_from")),
        "start_from: global",
    ),
    "a mean that nobody takes": (
        "standalone",
        change(
            SERVER,
            lambda c: component(c, "shareable_generator").update(
                component(read(REFERENCE / SERVER), "shareable_generator")
            ),
        ),
        "start_from: local",
    ),
    "nothing to report": (
        "standalone",
        change(
            SERVER,
            lambda c: component({"components": c["workflows"]}, "final_evaluation")["args"].update(cross_site=False),
        ),
        "cross_site: False",
    ),
    "the sites beside the pool": (
        "central",
        change(META, lambda c: c["deploy_map"]["app"].append("liver")),
        "#/deploy_map",
    ),
    "the sites in place of the pool": ("central_plain", change(META, every_site), "#/deploy_map"),
    "more clients than the pool": (
        "central",
        change(META, lambda c: c.update(min_clients=4)),
        "meta.json#/min_clients",
    ),
    "the command of the pool's other job": (
        "central",
        replace_text("README.md", "nvflare simulator jobs/central", "nvflare simulator jobs/central_plain"),
        "'nvflare simulator jobs/central'",
    ),
}


@pytest.mark.parametrize("spoiler", SPOILERS_OF_OTHERS)
def test_the_check_itself_sees_the_faults_of_other_jobs(tmp_path, spoiler):
    name, spoil, expected = SPOILERS_OF_OTHERS[spoiler]
    job = tmp_path / name
    shutil.copytree(JOBS_DIR / name, job)
    assert faults(job) == []
    spoil(job)
    assert [fault for fault in faults(job) if expected in fault]


@pytest.mark.parametrize(
    ("name", "edit", "pointer"),
    [
        (SERVER, lambda c: c.update(seed=1), f"{SERVER}#/seed"),
        (SERVER, lambda c: c.update(seed=0.0), f"{SERVER}#/seed"),
        (
            SERVER,
            lambda c: c["workflows"][0]["args"].update(train_timeout=1),
            f"{SERVER}#/workflows/rounds/args/train_timeout",
        ),
        (SERVER, lambda c: c["components"].pop(), f"{SERVER}#/components/scalars"),
        (CLIENT, lambda c: c["executors"][0]["tasks"].pop(), None),
        (META, lambda c: c.update(extra=1), "meta.json#/extra"),
    ],
)
def test_the_comparison_sees_every_kind_of_difference(tmp_path, name, edit, pointer):
    job = tmp_path / "fedavg"
    shutil.copytree(REFERENCE, job)
    assert differences_of(job) == set()
    change(name, edit)(job)
    found = differences_of(job)
    assert len(found) == 1
    assert pointer is None or found == {pointer}
