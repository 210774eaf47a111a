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
from fedpartial.phantom import PHANTOM_SITES
from fedpartial.presets import get_preset

JOBS_DIR = Path(__file__).parents[1] / "jobs"
JOBS = sorted(folder for folder in JOBS_DIR.iterdir() if folder.is_dir() and not folder.name.startswith("."))
REFERENCE = JOBS_DIR / "fedavg"
SITES = sorted(set(PHANTOM_SITES) - {"external"})

META, SERVER, CLIENT = "meta.json", "app/config/config_fed_server.json", "app/config/config_fed_client.json"
CONFIGS = (META, SERVER, CLIENT)
FILES = {"README.md", *CONFIGS, "app/custom/README.md"}
FRONT_MATTER = {"title", "paper", "labels", "limit"}
SYSTEM_VARIABLES = {"SITE_NAME", "WORKSPACE", "JOB_ID", "ROOT_URL", "SECURE_MODE"}
FLARE_KEYS = {"format_version", "executors", "workflows", "components", "task_data_filters", "task_result_filters"}

ALLOWED_DIFFERENCES = {
    "fedavg": set(),
    "condistfl": {
        "meta.json#/name",
        f"{SERVER}#/components/plan/args/job",
        f"{SERVER}#/components/shareable_generator/path",
        f"{SERVER}#/components/shareable_generator/args",
        f"{CLIENT}#/components/learner/args/method/path",
        f"{CLIENT}#/components/learner/args/method/args",
    },
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
    return found + path_faults(configs) + plan_faults(job, configs[SERVER])


def front_matter_faults(job: Path) -> list[str]:
    text = (job / "README.md").read_text(encoding="utf-8")
    block = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    if block is None:
        return ["README.md: no front matter"]
    lines = [line.partition(": ") for line in block[1].splitlines()]
    given = {key for key, _, value in lines if value.strip()}
    found = [f"README.md: front matter without {key}" for key in sorted(FRONT_MATTER - given)]
    return found + ([] if f"jobs/{job.name}" in text else ["README.md: no command for this job"])


def meta_faults(job: Path, meta: dict) -> list[str]:
    found = []
    if meta.get("name") != job.name:
        found.append(f"{META}#/name: {meta.get('name')!r}")
    if meta.get("deploy_map") != {"app": ["server", *SITES]}:
        found.append(f"{META}#/deploy_map: {meta.get('deploy_map')}")
    if meta.get("min_clients") != len(SITES):
        found.append(f"{META}#/min_clients: {meta.get('min_clients')}")
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
    assert len(JOBS) >= 2
    assert {job.name for job in JOBS} >= {"fedavg", "condistfl"}


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_a_job_has_no_fault(job):
    assert faults(job) == []


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_a_job_differs_from_fedavg_only_where_the_table_says(job):
    assert job.name in ALLOWED_DIFFERENCES, f"give jobs/{job.name} a row in ALLOWED_DIFFERENCES"
    assert differences_of(job) == ALLOWED_DIFFERENCES[job.name]


def test_the_table_has_no_row_for_a_job_that_is_gone():
    assert set(ALLOWED_DIFFERENCES) == {job.name for job in JOBS}


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
    "too few clients": (change(META, lambda c: c.update(min_clients=1)), "#/min_clients"),
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
