"""Which methods ``fedpartial compare`` runs, with which seeds: from a plan file or from the command line."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fedpartial.cli.json_file import read_json
from fedpartial.cli.refused import Refused
from fedpartial.errors import ConfigError, check_keys

PLAN_KEYS = ("title", "seeds", "rounds", "local_steps", "preset", "runs")
RUN_KEYS = ("name", "job", "method", "sites", "rounds", "local_steps", "pretrain_rounds", "values", "home")
OPTIONS = {
    "seeds": "--seeds",
    "rounds": "--rounds",
    "local_steps": "--local-steps",
    "preset": "--preset",
    "sites": "--sites",
}
"""What a plan and the command line can both say, and so only one of them may."""
PRETRAIN_ROUNDS = "pretrain_rounds"
OWN_KEYS = {
    "seed": "seeds",
    "num_rounds": "rounds",
    "local_steps": "local_steps",
    "preset": "preset",
    PRETRAIN_ROUNDS: PRETRAIN_ROUNDS,
}
"""Variables that a plan has keys for, and so may not stand in ``values`` as well."""
DEFAULT_SEEDS = (0, 1, 2)
UNSAFE = re.compile(r"[^A-Za-z0-9_.]+")


@dataclass(frozen=True, kw_only=True)
class PlannedMethod:
    """One row of the comparison: a job, and what differs from it. None where the job decides.

    values: variables of the server's configuration, by name. home: what rows share that are stages of one continuing
    federation; None is a home of its own, called as the row.
    """

    name: str
    job: str
    method: Mapping[str, object] = field(default_factory=dict)
    sites: Sequence[str] | None = None
    rounds: int | None = None
    local_steps: int | None = None
    pretrain_rounds: int | None = None
    values: Mapping[str, object] = field(default_factory=dict)
    home: str | None = None

    @property
    def server_values(self) -> dict[str, object]:
        """Variables of the server's configuration that have no option of their own."""
        given = {} if self.pretrain_rounds is None else {PRETRAIN_ROUNDS: self.pretrain_rounds}
        return {**given, **self.values}

    @property
    def folder(self) -> str:
        """The name in safe characters."""
        return _safe(self.name)

    @property
    def home_folder(self) -> str:
        return self.folder if self.home is None else _safe(self.home)


@dataclass(frozen=True, kw_only=True)
class ComparePlan:
    """Every method with every seed."""

    title: str
    seeds: tuple[int, ...]
    preset: str | None
    methods: tuple[PlannedMethod, ...]


def read_plan(path: Path, given: Mapping[str, object]) -> ComparePlan:
    """The plan in a file; ``given`` has the options of the command line by the plan's names, None where not given.

    Raises Refused with everything that is wrong.
    """
    where, content = str(path), _or_refused(lambda: read_json(path))
    _or_refused(lambda: check_keys(content, PLAN_KEYS, ("runs",), where=where))
    faults = [*_given_twice(content, given, where), *_plan_faults(content, where)]
    if faults:
        raise Refused(faults)
    settings = {name: content.get(name, given.get(name)) for name in OPTIONS}
    return _checked(where, _plan(content["runs"], content.get("title"), settings))


def plan_of_jobs(jobs: Sequence[str], given: Mapping[str, object]) -> ComparePlan:
    """The plan of ``fedpartial compare JOB...``; ``given`` as in read_plan."""
    return _checked("JOB", _plan([{"job": job} for job in jobs], None, given))


def parse_seeds(text: str | None) -> tuple[int, ...] | None:
    """ "0,1,2" as numbers."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    seeds = tuple(int(part) if part.isdecimal() else -1 for part in parts)
    if _are_seeds(list(seeds)):
        return seeds
    remedy = "For example --seeds 0,1,2."
    raise ConfigError(where="--seeds", field="seeds", got=text, expected=_SEEDS, remedy=remedy)


def _plan(runs: Sequence[Mapping], title: str | None, settings: Mapping[str, object]) -> ComparePlan:
    """A run's own rounds and local steps come before those of all runs."""
    length = {name: settings.get(name) for name in ("rounds", "local_steps")}
    methods = tuple(PlannedMethod(**{**length, "name": _job_name(run["job"]), **run}) for run in runs)
    seeds = settings.get("seeds") or DEFAULT_SEEDS
    return ComparePlan(
        title=title or f"Comparison of {', '.join(method.name for method in methods)}",
        seeds=tuple(seeds),
        preset=settings.get("preset"),
        methods=methods,
    )


def _safe(name: str) -> str:
    return UNSAFE.sub("-", name).strip("-.")


def _job_name(job: str) -> str:
    return Path(job).resolve().name


def _checked(where: str, plan: ComparePlan) -> ComparePlan:
    """Two methods in one folder would be taken for one another."""
    folders = [method.folder.casefold() for method in plan.methods]
    wrong = [m.name for m, folder in zip(plan.methods, folders, strict=True) if folders.count(folder) > 1 or not folder]
    if wrong:
        raise Refused(
            [
                ConfigError(
                    where=where,
                    field="names",
                    got=", ".join(dict.fromkeys(wrong)),
                    expected="names that differ in letters or digits",
                    remedy="Name each job once, or give the runs of a plan names of their own.",
                )
            ]
        )
    return plan


def _or_refused(call: Callable):
    try:
        return call()
    except ConfigError as fault:
        raise Refused([fault]) from None


def _given_twice(content: Mapping, given: Mapping[str, object], where: str) -> Iterator[ConfigError]:
    """A run's own value would win over the option without a word, so the runs of the plan count as well."""
    runs = content["runs"] if isinstance(content["runs"], list) else []
    parts = [("", content), *((f"runs[{i}].", run) for i, run in enumerate(runs) if isinstance(run, dict))]
    for prefix, part in parts:
        for name, option in OPTIONS.items():
            if name in part and given.get(name) is not None:
                yield _given_twice_error(where, prefix + name, option)


def _given_twice_error(where: str, place: str, option: str) -> ConfigError:
    remedy = "Leave the option out, or remove the key from the plan."
    expected = f"it either there or as {option}"
    return ConfigError(where=where, field=place, got=f"a value here and {option}", expected=expected, remedy=remedy)


def _plan_faults(content: Mapping, where: str) -> Iterator[ConfigError]:
    yield from _wrong_values(content, where, prefix="")
    runs = content["runs"]
    if not isinstance(runs, list) or not runs:
        yield _fault(where, "runs", runs, 'a list such as [{"job": "fedavg"}, {"job": "condistfl"}]')
        return
    for number, run in enumerate(runs):
        try:
            check_keys(run, RUN_KEYS, ("job",), where=f"{where}: runs[{number}]")
            yield from _wrong_values(run, where, prefix=f"runs[{number}].")
        except ConfigError as fault:
            yield fault


def _wrong_values(content: Mapping, where: str, prefix: str) -> Iterator[ConfigError]:
    for name, value in content.items():
        expected, right = _VALUES.get(name, ("", None))
        if right is not None and not right(value):
            yield _fault(where, prefix + name, value, expected)


def _fault(where: str, name: str, got: object, expected: str) -> ConfigError:
    return ConfigError(where=where, field=name, got=got, expected=expected, remedy="Correct the plan.")


def _is_number(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _are_seeds(value: object) -> bool:
    return _are_different(value, lambda seed: _is_number(seed, 0))


def _are_different(value: object, right: Callable[[object], bool]) -> bool:
    return isinstance(value, list) and bool(value) and all(map(right, value)) and len(set(value)) == len(value)


_SEEDS = "different whole numbers from 0 on"
_VALUES = {
    "title": ("a text", _is_text),
    "seeds": (_SEEDS, _are_seeds),
    "rounds": ("a whole number from 1 on", lambda value: _is_number(value, 1)),
    "local_steps": ("a whole number from 1 on", lambda value: _is_number(value, 1)),
    "preset": ("the name of a preset", _is_text),
    "name": ("a text", _is_text),
    "home": ("a text with a letter or a digit", lambda value: _is_text(value) and bool(_safe(value))),
    "job": ("a job folder, or the name of one under jobs/", _is_text),
    "sites": ("a list of different names of sites", lambda value: _are_different(value, _is_text)),
    "method": ("an object with arguments of the method", lambda value: isinstance(value, dict)),
    PRETRAIN_ROUNDS: ("a whole number from 0 on", lambda value: _is_number(value, 0)),
    "values": (
        f"an object with variables of the server's configuration, none of {', '.join(OWN_KEYS)}",
        lambda value: isinstance(value, dict) and not value.keys() & OWN_KEYS.keys(),
    ),
}
