"""Every run of a comparison, checked before any of them runs, and what its folder already holds."""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path

from fedpartial.cli.compare_plan import ComparePlan, PlannedMethod
from fedpartial.cli.job_folder import NOT_COPIED
from fedpartial.cli.json_file import read_json
from fedpartial.cli.prepare import JOB, SITES, WORKSPACE, Checked, Options, check
from fedpartial.cli.refused import Refused
from fedpartial.cli.results import REPORT, judge
from fedpartial.errors import ConfigError

RUNS, HOMES = "runs", "homes"
MAX_SHOWN = 3
NOTHING = "not there"
DELETE = "Delete this folder to run it again"
NOT_COMPARED = (*NOT_COPIED, "*.md")
"""A job's README does not change what it computes."""


@dataclass(kw_only=True)
class ComparisonRun:
    """One method with one seed. ``report`` is there when it is finished, ``faults`` when it has failed; ``seconds``
    is how long it took, None before."""

    name: str
    seed: int
    checked: Checked
    report: dict | None = None
    seconds: float | None = None
    faults: tuple[str, ...] = ()

    @property
    def work(self) -> int:
        """Local steps of one site in the whole run."""
        plan = self.checked.plan
        return plan.num_rounds * plan.local_steps + plan.finetune_steps

    def end(self, report: dict | None, faults: tuple[str, ...], seconds: float) -> None:
        self.report, self.faults, self.seconds = None if faults else report, faults, seconds

    def __str__(self) -> str:
        return f"{self.name}, seed {self.seed}"


def check_runs(plan: ComparePlan, common: Options, out: Path, temporary: Path) -> list[ComparisonRun]:
    """All runs in their order, seed by seed, so that a comparison that is not complete compares like with like.

    ``common`` has the options of all runs. Raises Refused with everything that is wrong; nothing is written
    but temporary files.
    """
    faults: dict[str, list[tuple[str, ConfigError]]] = {}
    runs = []
    for seed, method in itertools.product(plan.seeds, plan.methods):
        options = _options(plan, method, common, seed, out)
        try:
            checked = check(options, _new(temporary / f"{method.folder}-{seed}"), lambda given, _: given.out.resolve())
            runs.append(_as_left(ComparisonRun(name=method.name, seed=seed, checked=checked)))
        except (Refused, ConfigError) as refused:
            for fault in refused.faults if isinstance(refused, Refused) else [refused]:
                faults.setdefault(str(fault), []).append((method.name, fault))
    if faults:
        raise Refused([_of_runs(found, len(plan.methods)) for found in faults.values()])
    _check_organs(runs)
    return runs


def _check_organs(runs: list[ComparisonRun]) -> None:
    """A table has a column for each class: right and left kidney are no part of one for kidneys. Lesions may be classes
    in some runs and parts of their organs in others, which the comparison says."""
    methods: dict[frozenset[str], list[str]] = {}
    for run in runs:
        space = run.checked.plan.config.label_space
        methods.setdefault(frozenset(space.merged.classes), []).append(run.name)
    if len(methods) > 1:
        found = (f"{', '.join(sorted(organs))} ({', '.join(dict.fromkeys(m))})" for organs, m in methods.items())
        fault = ConfigError(
            where="comparison",
            field="organs",
            got="; ".join(found),
            expected="the same ones in all runs",
            remedy="Compare these runs separately, or give all of them a preset of one label space.",
        )
        raise Refused([fault])


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder


def clear(run: ComparisonRun) -> None:
    """Remove what an earlier attempt left in the run's folder; check_runs has seen that it was one."""
    out = run.checked.out
    if out.exists():
        # What an interruption leaves never looks finished, as the report goes first, and is still known as ours, as
        # the job goes last.
        for path in sorted((path for path in out.iterdir() if path.name != JOB), key=lambda path: path.name != REPORT):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.rmtree(out)


def seconds_of(report: dict) -> float:
    """Wall-clock seconds of a finished run."""
    return sum(report["phases"].values())


def _options(plan: ComparePlan, method: PlannedMethod, common: Options, seed: int, out: Path) -> Options:
    return replace(
        common,
        job=method.job,
        method=method.method,
        values=method.server_values,
        rounds=method.rounds,
        local_steps=method.local_steps,
        sites=common.sites if method.sites is None else tuple(method.sites),
        preset=plan.preset,
        seed=seed,
        out=out / RUNS / method.folder / f"seed{seed}",
        home=out / HOMES / method.home_folder / f"seed{seed}",
    )


def _of_runs(found: list[tuple[str, ConfigError]], num_methods: int) -> ConfigError:
    """What is wrong with some of the methods only names them."""
    names, fault = list(dict.fromkeys(name for name, _ in found)), found[0][1]
    if len(names) == num_methods:
        return fault
    return ConfigError(**{**vars(fault), "where": f"{'; '.join(names)}: {fault.where}"})


def _as_left(run: ComparisonRun) -> ComparisonRun:
    """The run with the report of an earlier one in its folder, if that was finished."""
    out = run.checked.out
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return run
    if not (out / JOB).is_dir():
        raise folder_error(out, "something else", "a folder of an earlier run, or none", "Move it or remove it")
    # A success removes the workspace, so a run with one has failed or was interrupted.
    if not (out / REPORT).is_file() or (out / WORKSPACE).exists():
        return run
    report = _finished_report(run.checked)
    return replace(run, report=report, seconds=seconds_of(report))


def _finished_report(checked: Checked) -> dict:
    """Hours of work are neither thrown away nor taken for something else without a word."""
    out = checked.out
    found = [*differences(out / JOB, checked.job.folder), *differences(out / SITES, checked.local / SITES)]
    if found:
        got = "; ".join(found[:MAX_SHOWN]) + (f"; {len(found) - MAX_SHOWN} more" if len(found) > MAX_SHOWN else "")
        raise folder_error(out, got, "a finished run with the settings of now", DELETE)
    report, missing = judge(out, checked.job.sites)
    if missing:
        raise folder_error(out, str(missing[0]), "a finished run that this version can read", DELETE)
    return report


def folder_error(out: Path, got: str, expected: str, remedy: str) -> ConfigError:
    remedy = f"{remedy}, or name another folder with --out."
    return ConfigError(where=str(out), field="folder", got=got, expected=expected, remedy=remedy)


def differences(old: Path, new: Path) -> Iterator[str]:
    """Which values of JSON files, and which other files, are not the same in two folders."""
    before, now = _values(old), _values(new)
    for place in sorted(before.keys() | now.keys()):
        was, is_now = before.get(place, NOTHING), now.get(place, NOTHING)
        if was != is_now:
            yield f"{place} was {was} and is now {is_now}"


def _values(folder: Path) -> dict[str, str]:
    """Every value of a folder's JSON files by file and place, as JSON; of other files a hash."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    relative = [path.relative_to(folder) for path in files]
    kept = [p for p in relative if not any(fnmatch(part, name) for part in p.parts for name in NOT_COMPARED)]
    return {f"{p}: {place}" if place else str(p): value for p in kept for place, value in _flat(_content(folder / p))}


def _content(path: Path) -> object:
    if path.suffix == ".json":
        return read_json(path)
    return f"sha256 {hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"


def _flat(value: object, place: str = "") -> Iterator[tuple[str, str]]:
    """Places of a JSON value and what stands there; an empty list or object is a value too."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _flat(item, f"{place}.{key}".lstrip("."))
    elif isinstance(value, list) and value:
        for index, item in enumerate(value):
            yield from _flat(item, f"{place}[{index}]")
    else:
        yield place, json.dumps(value)
