"""Made-up runs of FL-PSMOS: one site annotates everything, two annotate one organ each, and all adapt the model."""

from __future__ import annotations

import copy
import zlib
from dataclasses import replace
from functools import cache

import numpy as np

from fedpartial.evaluation.compared_run import ComparedRun
from fedpartial.evaluation.metrics import CaseScores
from fedpartial.evaluation.record import EXTERNAL, RunRecord
from fedpartial.evaluation.summary import summarise
from fedpartial.presets import get_preset

PRESET = "phantom_psmos"
SPACE = get_preset(PRESET).label_space
SITES = {"full": (SPACE.classes, 3), "liver": (("liver",), 4), "spleen": (("spleen",), 5)}
GAINS = {"all": 0.05, "encoder_frozen": 0.1, "decoder_frozen": -0.05}
JITTER = 0.001
LEVELS = {"federated": 0.8, "central": 0.85}


def adapted_record(method: str = "federated", seed: int = 0, **parts) -> RunRecord:
    """``parts`` replace fields of the record. "central" pools the cases of all sites and adapts nothing."""
    level, adapts = LEVELS[method], method != "central"
    cases = _cases(level, seed)
    external = [_case(level, seed, f"external {i}", SPACE.classes) for i in range(3)]
    adapted = {way: _cases(level + gain, seed) for way, gain in GAINS.items()} if adapts else {}
    if not adapts:
        cases = {"central": [case for site in sorted(cases) for case in cases[site]]}
    given = {
        "job": method,
        "commit": "c" * 12,
        "seed": seed,
        "preset": PRESET,
        "versions": {},
        "empty_class_policy": "exclude",
        "device": dict.fromkeys(cases, "cpu"),
        "precision": dict.fromkeys(cases, "float32"),
        "sites": _summaries(cases),
        "external": summarise(external, SPACE),
        "rounds": [_round(1, ["full"] if adapts else list(cases)), _round(2, list(cases))],
        "pretrain_rounds": 1 if adapts else 0,
        "selected_model": {"name": "final", "round": 2, "val_dice": level},
        "cases": {**cases, EXTERNAL: external},
        "adapted_sites": {way: _summaries(found) for way, found in adapted.items()},
        "adapted_cases": adapted,
        "unadapted_sites": _summaries(cases) if adapts else {},
        "unadapted_cases": cases if adapts else {},
    }
    return RunRecord(**given | parts)


def trained_alone_record() -> RunRecord:
    """The same sites after MMDS: the global model, each site's local one, and both together."""
    record = adapted_record()
    levels = {"local": LEVELS["federated"] + 0.1, "personalised": LEVELS["federated"] + 0.05}
    found = {way: _cases(level, 0) for way, level in levels.items()}
    adapted = {way: {s: [_with_assd(c) for c in cases] for s, cases in by.items()} for way, by in found.items()}
    means = {site: {name: e["dice"]["mean"] for name, e in of.items()} for site, of in record.sites.items()}
    return adapted_record(
        job="mmds",
        adapted_sites={way: _summaries(by_site) for way, by_site in adapted.items()},
        adapted_cases=adapted,
        cross_site={"final": means, "adapted local": means, "adapted personalised": means},
    )


def _with_assd(case: CaseScores) -> CaseScores:
    return replace(case, assd_mm={name: 10 * (1 - value) for name, value in case.dice.items()})


def adapted_run(method: str = "federated", seed: int = 0, *, adapt_steps: int = 20, **parts) -> ComparedRun:
    """The same as a row of a comparison."""
    report = copy.deepcopy(_report(method, seed)) | parts
    return ComparedRun(method=method, seed=seed, report=report, local_steps=10, merged=True, adapt_steps=adapt_steps)


@cache
def _report(method: str, seed: int) -> dict:
    return adapted_record(method, seed).to_report()


def _cases(level: float, seed: int) -> dict[str, list[CaseScores]]:
    return {site: [_case(level, seed, f"{site} {i}", c) for i in range(n)] for site, (c, n) in SITES.items()}


def _summaries(cases: dict[str, list[CaseScores]]) -> dict[str, dict]:
    return {site: summarise(found, SPACE) for site, found in cases.items()}


def _case(level: float, seed: int, patient: str, names: tuple[str, ...]) -> CaseScores:
    """The same patient is as difficult for every method, but for ``JITTER``: SciPy's exact test is slow with ties."""
    rough = {name: _random(seed, patient, name) for name in names}
    fine = {name: _random(seed, patient, name, str(level)) for name in names}
    dice = {name: float(np.clip(level + 0.03 * rough[name] + JITTER * fine[name], 0, 1)) for name in names}
    return CaseScores(
        dice=dice,
        hd95_mm={name: 100 * (1 - value) for name, value in dice.items()},
        assd_mm=dict.fromkeys(names),
        status=dict.fromkeys(names, "scored"),
        leakage=dict.fromkeys(names),
    )


def _random(seed: int, *texts: str) -> float:
    """From -1 to 1."""
    return np.random.default_rng([seed, *(zlib.crc32(text.encode()) for text in texts)]).uniform(-1, 1)


def _round(number: int, sites: list[str]) -> dict:
    site = {"loss": 1.0, "val_dice": 0.5, "seconds": 4.0, "bytes_up": 1000, "bytes_down": 2000}
    total = {"seconds": 10.0, "bytes_up": 1000 * len(sites), "bytes_down": 2000 * len(sites), "val_dice": 0.5}
    return {"round": number, **total, "sites": dict.fromkeys(sites, site)}
