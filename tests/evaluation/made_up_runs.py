"""Reports of made-up runs: scores are random numbers of (method, seed, patient, class), patients stay the same."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache

import numpy as np

from fedpartial.evaluation.compared_run import ComparedRun
from fedpartial.evaluation.metrics import CaseScores
from fedpartial.evaluation.record import EXTERNAL, EXTERNAL_HEADS, EXTERNAL_NAMES, EXTERNAL_ORGANS, RunRecord
from fedpartial.evaluation.summary import summarise
from fedpartial.presets import ABDOMEN

ALL = ("liver", "spleen", "kidney", "kidney_tumor")
SITES = {"kidney": (("kidney", "kidney_tumor"), 3), "liver": (("liver",), 2), "spleen": (("spleen",), 2)}
EXTERNAL_CASES = 4
WITHOUT_TUMOUR = ("external 1", "kidney 2")
"""Patients whose reference has no kidney tumour."""
LEVELS = {"plain": 0.3, "marginal": 0.6, "distilled": 0.75, "union": 0.7, "central": 0.8}


def made_up_run(method: str, seed: int, *, local_steps: int = 10, **parts) -> ComparedRun:
    """``parts`` replace fields of the report. "union" has no lesions; "central" has all cases at one site."""
    report = copy.deepcopy(_report(method, seed)) | parts
    return ComparedRun(method=method, seed=seed, report=report, local_steps=local_steps, merged=method == "union")


@cache
def _report(method: str, seed: int) -> dict:
    merged = method == "union"
    cases = {site: [_case(method, seed, f"{site} {i}", c, merged) for i in range(n)] for site, (c, n) in SITES.items()}
    if method == "central":
        cases = {"central": [case for site in sorted(cases) for case in cases[site]]}
    external = [_case(method, seed, f"external {i}", ALL, merged) for i in range(EXTERNAL_CASES)]
    organs = [_case(method, seed, f"external {i}", ALL, True) for i in range(EXTERNAL_CASES)]
    return RunRecord(
        job=method,
        commit="c" * 40,
        seed=seed,
        preset="phantom",
        versions={},
        empty_class_policy="exclude",
        device=dict.fromkeys(cases, "cpu"),
        precision=dict.fromkeys(cases, "float32"),
        sites={site: summarise(c, ABDOMEN) for site, c in cases.items()},
        external=summarise(external, ABDOMEN),
        external_organs=summarise(organs, ABDOMEN),
        rounds=[_round(r, cases, LEVELS[method] + 0.01 * seed) for r in (1, 2)],
        phases={"training rounds": 20.0 + seed, "external set": 5.0},
        cases={**cases, EXTERNAL: external, EXTERNAL_ORGANS: organs},
    ).to_report()


def made_up_runs(methods: Sequence[str], seeds: Sequence[int] = (0, 1, 2)) -> list[ComparedRun]:
    return [made_up_run(method, seed) for seed in seeds for method in methods]


def dice_of(method: str, seed: int, patient: str, name: str) -> float:
    rng = np.random.default_rng([seed, *(zlib.crc32(part.encode()) for part in (method, patient, name))])
    return float(np.clip(rng.normal(LEVELS[method], 0.05), 0, 1))


def _case(method: str, seed: int, patient: str, names: Sequence[str], merged: bool) -> CaseScores:
    """Merged organs have scores of their own, called after the organ."""
    kept = [name for name in names if not (merged and name in ABDOMEN.lesions)]
    present = {name: not (name == "kidney_tumor" and patient in WITHOUT_TUMOUR) for name in kept}
    of = {name: f"{name} with lesions" if merged else name for name in kept}
    dice = {name: dice_of(method, seed, patient, of[name]) if present[name] else None for name in kept}
    return CaseScores(
        dice=dice,
        hd95_mm={name: None if value is None else 100 * (1 - value) for name, value in dice.items()},
        assd_mm=dict.fromkeys(kept),
        status={name: "scored" if present[name] else "absent" for name in kept},
        leakage=dict.fromkeys(kept),
    )


def _round(number: int, sites: Mapping, dice: float) -> dict:
    site = {"loss": 1.0, "val_dice": dice, "seconds": 4.0, "bytes_up": 1000, "bytes_down": 2000}
    total = {"seconds": 10.0, "bytes_up": 1000 * len(sites), "bytes_down": 2000 * len(sites), "val_dice": dice}
    return {"round": number, **total, "sites": dict.fromkeys(sites, site)}


def at_sites(run: ComparedRun, sites: Sequence[str]) -> ComparedRun:
    """The run as it would be with these sites only: no other site, and no score of a class that none of them has."""
    report = copy.deepcopy(run.report)
    known = {name for site in sites for name in SITES[site][0]}
    report["sites"] = {site: report["sites"][site] for site in sites}
    report["cases"] = {place: c for place, c in report["cases"].items() if place not in SITES or place in sites}
    for which in EXTERNAL_NAMES:
        report[which] = {name: entry for name, entry in report[which].items() if name in known}
        for case in report["cases"].get(which, ()):
            for field in ("dice", "hd95_mm", "assd_mm", "status", "leakage"):
                case[field] = {name: value for name, value in case[field].items() if name in known}
    return replace(run, report=report)


def with_heads(run: ComparedRun, gain: float = 0.1) -> ComparedRun:
    """The run of a model with heads, each of which is better by itself than in the fused label map."""
    report = copy.deepcopy(run.report)
    better = copy.deepcopy(report["cases"][EXTERNAL])
    for case in better:
        case["dice"] = {name: value and value + gain for name, value in case["dice"].items()}
    report["cases"][EXTERNAL_HEADS] = better
    report[EXTERNAL_HEADS] = copy.deepcopy(report[EXTERNAL])
    for entry in report[EXTERNAL_HEADS].values():
        entry["dice"]["mean"] += gain
    return replace(run, report=report)
