"""One external case as every method of a comparison has segmented it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fedpartial.cli.compare_check import ComparisonRun
from fedpartial.data.preprocess import load_label
from fedpartial.evaluation.comparison_overlays import side_by_side
from fedpartial.evaluation.overlays import pick_cases
from fedpartial.evaluation.record import EXTERNAL, case_scores
from fedpartial.server.external_set import external_site, prediction_file
from fedpartial.training.site_session import SiteSession

SHOWN = ("median", "worst")


def overlay_pictures(runs: Sequence[ComparisonRun]) -> list[tuple[str, bytes]]:
    """Title and PNG of the first method's median and worst external case, as all methods' runs with the first seed
    have predicted it; none while one of these is not finished, nor of cases of which one has kept no prediction."""
    first = [run for run in runs if run.seed == runs[0].seed]
    if any(run.report is None for run in first):
        return []
    chosen = {which: number for which, number in _cases(first[0]).items() if _all_have(first, number)}
    if not chosen:
        return []
    session = _session(first)
    return [(title, _picture(session, first, number, title)) for number, title in _titles(first[0], chosen).items()]


def _cases(run: ComparisonRun) -> dict[str, int]:
    """Which external cases to show, by number."""
    cases = run.report["cases"].get(EXTERNAL, [])
    picked = pick_cases([case_scores(case) for case in cases])
    return {which: cases[picked[which]]["case"] for which in SHOWN if which in picked}


def _titles(run: ComparisonRun, chosen: dict[str, int]) -> dict[int, str]:
    """By number; a case that is both is shown once."""
    names: dict[int, list[str]] = {}
    for which, number in chosen.items():
        names.setdefault(number, []).append(which)
    return {n: f"External case {n}, the {' and '.join(which)} one of {run}" for n, which in names.items()}


def _prediction(run: ComparisonRun, number: int) -> Path:
    return prediction_file(run.checked.out, number)


def _all_have(runs: Sequence[ComparisonRun], number: int) -> bool:
    return all(_prediction(run, number).is_file() for run in runs)


def _session(runs: Sequence[ComparisonRun]) -> SiteSession:
    """The external set with the most classes that a method knows."""
    checked = max((run.checked for run in runs), key=lambda checked: len(checked.plan.config.label_space.classes))
    phantom = any(site.source == "phantom" for site in checked.sites)
    site = external_site(checked.site_folder.config_dir, phantom=phantom)
    return SiteSession(site=site, plan=checked.plan, method=None, state_dir=Path())


def _picture(session: SiteSession, runs: Sequence[ComparisonRun], number: int, title: str) -> bytes:
    case = session.scored_cases[number - 1]
    return side_by_side(
        session.image(case),
        session.reference(case),
        {run.name: load_label(_prediction(run, number)).array.astype(np.uint8) for run in runs},
        affine=case.original_affine,
        space=session.preset.label_space,
        spaces={run.name: run.checked.plan.config.label_space for run in runs},
        title=title,
    )
