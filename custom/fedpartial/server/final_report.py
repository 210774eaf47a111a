"""From the answers of the sites to the report: select a model, score the external set, write the files."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from io import StringIO
from pathlib import Path

import numpy as np

from fedpartial.evaluation.exchange import exchange_facts
from fedpartial.evaluation.metrics import CaseScores
from fedpartial.evaluation.record import EXTERNAL, EXTERNAL_HEADS, EXTERNAL_ORGANS
from fedpartial.evaluation.report import ReportPaths, RunRecord, write_report
from fedpartial.evaluation.summary import summarise
from fedpartial.evaluation.table import console_table
from fedpartial.evaluation.withhold import read_summary
from fedpartial.networks.assembled import SEPARATOR, private_parts
from fedpartial.networks.fusion import LOG_ODDS, Fusion
from fedpartial.networks.split import head_classes, is_shared
from fedpartial.networks.universal import universal_classes
from fedpartial.networks.wire import wire_bytes
from fedpartial.server.external_set import KEPT_PREDICTIONS, ExternalScores, ExternalSet, external_site
from fedpartial.server.metrics_check import check_scores
from fedpartial.server.provenance import source_commit, versions
from fedpartial.server.run_history import RunHistory, macro_dice
from fedpartial.training.plan import Plan
from fedpartial.training.reported import ADAPTED, FACT_NUMBERS, LOCAL, OWN_WAYS, WORDS


class FinalReport:
    """Collects the sites' scores of the final models and turns them into a report."""

    def __init__(self, *, plan: Plan, history: RunHistory, config_dir: Path, fusion: Fusion = LOG_ODDS):
        self.plan, self.history, self.config_dir, self.fusion = plan, history, config_dir, fusion
        self.failures: dict[str, str] = {}
        self.validation: dict[str, dict[str, dict[str, float]]] = {}
        self.testing: dict[str, dict[str, dict[str, dict]]] = {}
        self.cases: dict[str, dict[str, list[CaseScores]]] = {}
        self.selected: str | None = "final"
        self.selected_dice, self.selected_round = None, plan.num_rounds
        self._started = time.monotonic()
        self._phases: dict[str, float] = {}

    def add_site_scores(self, site: str, answer: Mapping) -> None:
        """One site's answer: validation Dice and, by model, the scores of its test cases or a summary of them.

        Which of the two is the site's decision (ReportedMetrics). MetricsRefused, and nothing of it is kept, when a
        part of the answer cannot be used. A site may answer several times, each time for other models: the ones it
        has adapted to its own data before the ones that all sites score.
        """
        check_scores(site, answer, self.plan.config.label_space.classes)
        if not self.history.rounds:
            self._keep_facts(site, answer)
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

    def _keep_facts(self, site: str, answer: Mapping) -> None:
        """Without rounds no update has told what the site is; an answer may lack it."""
        names = (*WORDS, *FACT_NUMBERS)
        if all(name in answer for name in names):
            self.history.facts[site] = {name: answer[name] for name in names}
            self.history.first_facts.setdefault(site, self.history.facts[site])

    def select(self, models: Mapping[str, object]) -> str:
        """The final model when it scores at least as well as the best of the earlier rounds, else that one.

        Without rounds the final model is the one that the run started from.
        """
        self._phases["evaluation at the sites"] = time.monotonic() - self._started
        dice = self._score_final(self.validation.get("final", {}))
        if self.history.is_best(dice, self.plan.num_rounds) or "best" not in models:
            self.selected, self.selected_round, self.selected_dice = "final", self.plan.num_rounds, dice
        else:
            self.selected, self.selected_round = "best", self.history.best_round
            self.selected_dice = self.history.best_dice
        return self.selected

    def _score_final(self, by_site: Mapping[str, Mapping[str, float]]) -> float | None:
        rounds = self.history.rounds
        return self.history.set_score(rounds[-1], by_site) if rounds else macro_dice(by_site)

    def select_local(self) -> None:
        """Standalone training: no model is better than another, every site has its own."""
        self._phases["evaluation at the sites"] = time.monotonic() - self._started
        by_model = self.validation
        own = {s: by_model[f"{LOCAL}{s}"][s] for s in self.history.facts if s in by_model.get(f"{LOCAL}{s}", {})}
        self._score_final(own)
        self.selected = None

    def write(
        self,
        folder: Path,
        models: Mapping[str, Mapping[str, np.ndarray]],
        stop: Callable[[], bool],
        *,
        keep: int = KEPT_PREDICTIONS,
        taught: Collection[str] | None = None,
    ) -> tuple[ReportPaths, str]:
        """Score the external set with the selected model, or with every site's own, and write the report's files.

        keep: number of external cases whose label maps are kept in ``folder``. taught: classes that a global model
        knows, None where that is not known.
        """
        started = time.monotonic()
        phantom = any(facts["source"] == "phantom" for facts in self.history.facts.values())
        site = external_site(self.config_dir, phantom=phantom)
        external = ExternalScores(cases=[], organs=[], heads=[], overlays=[])
        if site is not None:
            external_set = ExternalSet(site, self.plan, self.fusion, taught if self.selected else None)
            external = external_set.score(models, self._owners(models), folder, stop, keep=keep)
        self._phases["external set"] = time.monotonic() - started
        record = self._record(models, external)
        paths = write_report(record, folder, space=self.plan.config.label_space)
        return paths, render(console_table(record))

    def _owners(self, models: Mapping[str, object]) -> dict[str, str]:
        """Class -> the model that answers for it. Of several sites with a class, the one with most training cases,
        of whatever class: how many annotate this one is not reported.

        A class that no site has annotated has none: nobody could have learnt it.
        """
        if self.selected is not None:
            return dict.fromkeys(self._classes_of(models[self.selected]), self.selected)
        facts = self.history.facts
        by_size, own = sorted(facts, key=lambda site: (facts[site]["num_training"], site)), self._own_scores()
        return {name: f"{LOCAL}{s}" for s in by_size if f"{LOCAL}{s}" in models for name in own.get(s, {})}

    def _classes_of(self, weights: Mapping[str, np.ndarray]) -> list[str]:
        """The classes that a global model knows: those of its heads, or those that some site annotates.

        All, when a site tells of none: it may have neither test nor validation cases.
        """
        classes = self.plan.config.label_space.classes
        if universal := universal_classes(weights):
            return list(universal)
        if private := private_parts(weights):
            heads = {name for part in private.values() for name in head_classes(part)}
            return [name for name in classes if name in heads]
        told = {site: self._told(site) for site in self.history.facts}
        known = set().union(*told.values())
        return [name for name in classes if name in known] if known and all(told.values()) else list(classes)

    def _told(self, site: str) -> set[str]:
        """The classes of which a site has reported a score, in any round or for any model."""
        rounds = (r.sites[site]["val_dice"] for r in self.history.rounds if site in r.sites)
        tested = (by_site[site] for by_site in self.testing.values() if site in by_site)
        return {name for scores in (*rounds, *tested) for name in scores}

    def _own_scores(self) -> dict[str, dict]:
        """Every site's scores of the model that this run gives it."""
        if self.selected is not None:
            return self.testing.get(self.selected, {})
        return {s: by_site[s] for s in self.history.facts if s in (by_site := self.testing.get(f"{LOCAL}{s}", {}))}

    def _record(self, models: Mapping[str, Mapping[str, np.ndarray]], external: ExternalScores) -> RunRecord:
        space, plan = self.plan.config.label_space, self.plan
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
            sites=dict(sorted(self._own_scores().items())),
            external=summarise(external.cases, space),
            external_organs=summarise(external.organs or external.cases, space.merged),
            external_heads=summarise(external.heads, space),
            rounds=self.history.report_rounds(),
            exchange=self._exchange(next(iter(models.values()), {})),
            phases=self._all_phases(),
            cross_site=self._cross_site(),
            selected_model=self.selected
            and {"name": self.selected, "round": self.selected_round, "val_dice": self.selected_dice},
            cases={**dict(sorted(self._own_cases().items())), **self._external_cases(external)},
            adapted_sites=_adapted(self.testing),
            adapted_cases=_adapted(self.cases),
            unadapted_sites=self._unadapted(self.testing),
            unadapted_cases=self._unadapted(self.cases),
            pretrain_rounds=plan.pretrain_rounds,
            notes=self._notes(external.cases),
            overlays=external.overlays,
        )

    def _unadapted(self, by_model: Mapping[str, Mapping[str, object]]) -> dict[str, object]:
        """Site -> what is known of the model that the sites have adapted; {} in a run without adaptation."""
        return dict(sorted(by_model.get("final", {}).items())) if _adapted(self.testing) else {}

    def _own_cases(self) -> dict[str, list[CaseScores]]:
        if self.selected is not None:
            return self.cases.get(self.selected, {})
        return {s: by_site[s] for s in self.history.facts if s in (by_site := self.cases.get(f"{LOCAL}{s}", {}))}

    def _external_cases(self, external: ExternalScores) -> dict[str, list[CaseScores]]:
        if not external.cases:
            return {}
        heads = {EXTERNAL_HEADS: external.heads} if external.heads else {}
        return {EXTERNAL: external.cases, EXTERNAL_ORGANS: external.organs or external.cases, **heads}

    def _exchange(self, weights: Mapping[str, np.ndarray]) -> dict:
        """What travelled in the rounds; of an assembled model what is shared, beside what every site kept."""
        wire, private = self.plan.wire, private_parts(weights)
        everything = {n: v for part in (weights, *private.values()) for n, v in part.items() if SEPARATOR not in n}
        shared = {name: value for name, value in everything.items() if is_shared(name, self.plan.exchange)}
        kept = {site: {n: v for n, v in part.items() if n not in shared} for site, part in private.items()}
        return {
            **exchange_facts(self.history.exchange, shared, kept, partial(wire_bytes, wire=wire)),
            **({} if wire == "float32" else {"wire": wire}),
            **self.history.bytes_after,
            "bytes_up": sum(r["bytes_up"] for r in self.history.report_rounds()),
            "bytes_down": sum(r["bytes_down"] for r in self.history.report_rounds()),
        }

    def _all_phases(self) -> dict[str, float]:
        training = sum(r.seconds for r in self.history.rounds)
        setup = max((f["setup_seconds"] for f in self.history.first_facts.values()), default=0.0)
        return {
            "data preparation (slowest site)": setup,
            "training rounds": max(training - setup, 0.0),
            **self.history.phases,
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
        notes += self.history.notes
        if self.selected is None:
            notes.append(
                "There is no global model: each class is scored with the local model of a site that labels it."
            )
        if self.plan.private_heads:
            notes.append(
                "The validation Dice of a round is of every site's own network, the last one of the assembled model; "
                f"its heads are fused by the rule {self.fusion.rule!r}."
            )
        if not external:
            notes.append("No external set: a site file external.json (at a server in local/sites) gives one.")
        return notes


def _adapted(by_model: Mapping[str, Mapping[str, object]]) -> dict[str, dict]:
    """Way -> site -> what is known of the model that the site has adapted in this way, or has of its own."""
    found = {way: by_model.get(f"{ADAPTED}{way}", {}) for way in OWN_WAYS}
    return {way: dict(sorted(by_site.items())) for way, by_site in found.items() if by_site}


def render(table) -> str:
    """A rich table as plain text for a log."""
    from rich.console import Console

    text = StringIO()
    Console(file=text, width=140, no_color=True).print(table)
    return text.getvalue()
