"""From the answers of the sites to the report: select a model, score the external set, write the files."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from io import StringIO
from pathlib import Path

import numpy as np
import torch

from fedpartial.evaluation.metrics import CaseScores
from fedpartial.evaluation.overlays import case_mean, overlay_picture, pick_cases
from fedpartial.evaluation.report import Overlay, ReportPaths, RunRecord, write_report
from fedpartial.evaluation.summary import summarise
from fedpartial.evaluation.table import console_table
from fedpartial.evaluation.withhold import read_summary
from fedpartial.server.metrics_check import check_scores
from fedpartial.server.provenance import source_commit, versions
from fedpartial.server.run_history import RunHistory
from fedpartial.sites import SiteConfig, phantom_site, read_site, site_file
from fedpartial.training.plan import Plan
from fedpartial.training.site_session import SiteSession

EXTERNAL = "external"


class FinalReport:
    """Collects the sites' scores of the final models and turns them into a report."""

    def __init__(self, *, plan: Plan, history: RunHistory, config_dir: Path):
        self.plan, self.history, self.config_dir = plan, history, config_dir
        self.failures: dict[str, str] = {}
        self.validation: dict[str, dict[str, dict[str, float]]] = {}
        self.testing: dict[str, dict[str, dict[str, dict]]] = {}
        self.cases: dict[str, dict[str, list[CaseScores]]] = {}
        self.selected, self.selected_dice, self.selected_round = "final", None, plan.num_rounds
        self._started = time.monotonic()
        self._phases: dict[str, float] = {}

    def add_site_scores(self, site: str, answer: Mapping) -> None:
        """One site's answer: validation Dice and, by model, the scores of its test cases or a summary of them.

        Which of the two is the site's decision (ReportedMetrics). MetricsRefused, and nothing of it is kept, when a
        part of the answer cannot be used.
        """
        check_scores(site, answer, self.plan.config.label_space.classes)
        for model, scores in answer["validation"].items():
            self.validation.setdefault(model, {})[site] = dict(scores)
        for model, scores in answer["testing"].items():
            self.testing.setdefault(model, {})[site] = self._summary(site, model, scores)

    def _summary(self, site: str, model: str, scores: Sequence | Mapping) -> dict[str, dict]:
        space = self.plan.config.label_space
        if isinstance(scores, Mapping):
            return read_summary(scores, space.classes)
        cases = [CaseScores.from_dict(case) for case in scores]
        self.cases.setdefault(model, {})[site] = cases
        return summarise(cases, space)

    def select(self, models: Mapping[str, object]) -> str:
        """The final model when it scores at least as well as the best of the earlier rounds, else that one."""
        self._phases["evaluation at the sites"] = time.monotonic() - self._started
        dice = self.history.set_score(self.history.rounds[-1], self.validation.get("final", {}))
        if self.history.is_best(dice, self.plan.num_rounds) or "best" not in models:
            self.selected, self.selected_round, self.selected_dice = "final", self.plan.num_rounds, dice
        else:
            self.selected, self.selected_round = "best", self.history.best_round
            self.selected_dice = self.history.best_dice
        return self.selected

    def write(
        self, folder: Path, weights: Mapping[str, np.ndarray], stop: Callable[[], bool]
    ) -> tuple[ReportPaths, str]:
        """Score the external set with the selected model and write report.json, .html and CSV files."""
        started = time.monotonic()
        external, overlays = self._score_external(weights, stop)
        self._phases["external set"] = time.monotonic() - started
        record = self._record(weights, external, overlays)
        paths = write_report(record, folder, space=self.plan.config.label_space)
        return paths, render(console_table(record))

    def _external_site(self) -> SiteConfig | None:
        """The server's own test set: its site file, or the phantom's when a site used the phantom."""
        if site_file(self.config_dir, EXTERNAL).exists():
            return read_site(EXTERNAL, self.config_dir)
        if any(facts["source"] == "phantom" for facts in self.history.facts.values()):
            return phantom_site(EXTERNAL)
        return None

    def _score_external(
        self, weights: Mapping[str, np.ndarray], stop: Callable[[], bool]
    ) -> tuple[list[CaseScores], list[Overlay]]:
        site = self._external_site()
        if site is None:
            return [], []
        session = SiteSession(site=site, plan=self.plan, method=None, state_dir=Path())
        tensors = {name: torch.from_numpy(np.array(value)) for name, value in weights.items()}
        scores, predictions = [], []
        for case in session.scored_cases:
            if stop():
                break
            predictions.append(session.predict(tensors, case))
            scores.append(session.score_prediction(case, predictions[-1]))
        return scores, [
            self._overlay(session, which, index, scores[index], predictions[index])
            for which, index in pick_cases(scores).items()
        ]

    def _overlay(
        self, session: SiteSession, which: str, index: int, scores: CaseScores, prediction: np.ndarray
    ) -> Overlay:
        case, dice = session.scored_cases[index], case_mean(scores)
        title = f"{which} external case (case {index + 1}, mean Dice {dice:.2f})"
        png = overlay_picture(
            session.image(case),
            session.reference(case),
            prediction,
            affine=case.original_affine,
            space=session.preset.label_space,
            title=title,
        )
        return Overlay(title=title, site=EXTERNAL, dice=dice, png=png)

    def _record(
        self, weights: Mapping[str, np.ndarray], external: list[CaseScores], overlays: list[Overlay]
    ) -> RunRecord:
        space, plan = self.plan.config.label_space, self.plan
        tested = self.testing.get(self.selected, {})
        cases = self.cases.get(self.selected, {})
        facts = dict(sorted(self.history.facts.items()))
        return RunRecord(
            job=plan.job,
            commit=source_commit(),
            seed=plan.seed,
            preset=plan.preset,
            versions=versions(),
            empty_class_policy="exclude",
            device={site: f["device"] for site, f in facts.items()},
            precision={site: f["precision"] for site, f in facts.items()},
            sites=dict(sorted(tested.items())),
            external=summarise(external, space),
            rounds=self.history.report_rounds(),
            exchange=self._exchange(weights),
            phases=self._all_phases(),
            cross_site=self._cross_site(),
            selected_model={
                "name": self.selected,
                "round": self.selected_round,
                "val_dice": self.selected_dice,
            },
            cases={**dict(sorted(cases.items())), **({EXTERNAL: external} if external else {})},
            notes=self._notes(external),
            overlays=overlays,
        )

    def _exchange(self, weights: Mapping[str, np.ndarray]) -> dict:
        return {
            "tensors": len(weights),
            "parameters": sum(value.size for value in weights.values()),
            "bytes_per_message": sum(value.nbytes for value in weights.values()),
            "bytes_up": sum(r["bytes_up"] for r in self.history.report_rounds()),
            "bytes_down": sum(r["bytes_down"] for r in self.history.report_rounds()),
        }

    def _all_phases(self) -> dict[str, float]:
        training = sum(r.seconds for r in self.history.rounds)
        setup = max((f["setup_seconds"] for f in self.history.first_facts.values()), default=0.0)
        return {
            "data preparation (slowest site)": setup,
            "training rounds": max(training - setup, 0.0),
            **self._phases,
        }

    def _cross_site(self) -> dict:
        return {
            model: {
                site: {name: entry["dice"]["mean"] for name, entry in summary.items()}
                for site, summary in sorted(by_site.items())
            }
            for model, by_site in sorted(self.testing.items())
        }

    def _notes(self, external: list[CaseScores]) -> list[str]:
        notes = [f"{site} gave no scores: {reason}" for site, reason in sorted(self.failures.items())]
        if not external:
            notes.append("No external set: write local/sites/external.json at the server to score one.")
        return notes


def render(table) -> str:
    """A rich table as plain text for a log."""
    from rich.console import Console

    text = StringIO()
    Console(file=text, width=140, no_color=True).print(table)
    return text.getvalue()
