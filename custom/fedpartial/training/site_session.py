"""One site at work: its configuration, its prepared data, its trainer. Plain torch, no FLARE.

Opening a session is where everything wrong with a site is found, before any training.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from fedpartial.data.preprocess import load_image, load_label
from fedpartial.data.store import prepare_cases
from fedpartial.data.stored_case import StoredCase
from fedpartial.errors import needs_space
from fedpartial.labels import LabelTable
from fedpartial.methods.base import Method
from fedpartial.networks.assembled import build_assembled, is_assembled
from fedpartial.networks.build import build_network
from fedpartial.networks.canonical import load_canonical
from fedpartial.networks.fusion import LOG_ODDS, Fusion
from fedpartial.networks.known_classes import of_known_classes
from fedpartial.networks.universal import universal_classes
from fedpartial.phantom import ensure_phantom
from fedpartial.sites import SiteConfig, SitePool
from fedpartial.training.evaluator import mean_dice, predict_on_original_grid, quick_scores
from fedpartial.training.local_trainer import LocalTrainer, RoundResult, StartFrom
from fedpartial.training.plan import Plan
from fedpartial.training.precision import select_precision

if TYPE_CHECKING:
    from fedpartial.evaluation.metrics import CaseScores
    from fedpartial.training.adaptation import AdaptationPlan
    from fedpartial.training.tuning import Tuned

SPLITS = ("training", "validation", "testing")
log = logging.getLogger(__name__)


class SiteSession:
    """Everything one site needs to take part in a run of ``plan``."""

    def __init__(
        self,
        *,
        site: SiteConfig | SitePool,
        plan: Plan,
        method: Method | None,
        state_dir: Path,
        start_from: StartFrom = "global",
        on_step: Callable[[int, float], None] | None = None,
    ):
        started = time.monotonic()
        self.site, self.plan, self.preset = site, plan, plan.config
        if self.preset.cpu_threads:
            torch.set_num_threads(self.preset.cpu_threads)
        self.precision = select_precision(site.device, where=site.where)
        self.cases: dict[str, list[StoredCase]] = {split: [] for split in SPLITS}
        self._tables: dict[Path, LabelTable] = {}
        for member in site.members:
            self._open(member)
        self.setup_seconds = time.monotonic() - started
        self.method, self.state_dir, self._on_step, self._start_from = method, state_dir, on_step, start_from
        self._trainer: LocalTrainer | None = None
        self._network: nn.Module | None = None
        self._network_classes: tuple[str, ...] | None = None

    def _open(self, member: SiteConfig) -> None:
        """Prepare the cases of one site, which keep their site's label values."""
        table = self.preset.label_space.table(member.labels, where=member.where)
        if member.source == "phantom":
            with needs_space("the phantom", member.data_root):
                ensure_phantom(member.data_root.parent, member.name, progress=self._progress("phantom case"))
        prepared = prepare_cases(member, self.preset, splits=SPLITS, progress=self._progress("prepared case"))
        for split, cases in prepared.cases.items():
            self.cases[split] += self._to_train(member.name, cases) if split != "testing" else cases
            self._tables |= {case.folder: table for case in cases}  # two sites may share a label file

    def _to_train(self, member: str, cases: Sequence[StoredCase]) -> list[StoredCase]:
        """Cases as they are trained and validated with: annotating no more than the plan's site_classes."""
        if member not in self.plan.site_classes:
            return list(cases)
        mask = self.preset.label_space.labelled_mask(self.plan.site_classes[member], where="site_classes")
        return [case.annotating(case.labelled & mask) for case in cases]

    def split(self, name: str) -> list[StoredCase]:
        """The cases of one split that have labels."""
        return [case for case in self.cases[name] if case.label is not None]

    @property
    def scored_cases(self) -> list[StoredCase]:
        """What final scores are computed on: the test cases, or the validation cases of a site without."""
        return self.split("testing") or self.split("validation")

    def _progress(self, what: str) -> Callable[..., None]:
        last = 0.0

        def report(done: int, total: int, *_: object) -> None:
            nonlocal last
            if time.monotonic() - last > 2 or done == total:
                last = time.monotonic()
                log.info("%s: %s %d of %d", self.site.name, what, done, total)

        return report

    @property
    def trainer(self) -> LocalTrainer:
        if self._trainer is None:
            self._trainer = LocalTrainer(
                preset=self.preset,
                method=self.method,
                cases=self.split("training"),
                site=self.site.name,
                seed=self.plan.seed,
                schedule=self.plan.schedule.pooled(len(self.site.members)),
                precision=self.precision,
                state_dir=self.state_dir,
                num_workers=self.site.num_workers,
                start_from=self._start_from,
                exchange=self.plan.exchange,
                head_classes=self.head_classes,
                on_step=self._on_step,
            )
        return self._trainer

    @property
    def head_classes(self) -> tuple[str, ...] | None:
        """The classes of the site's own heads, those that its training cases annotate. None for a joint head.

        A universal network that all sites train together has the plan's classes."""
        if not self.plan.private_heads and not self.plan.federation:
            return self.plan.head_classes
        annotated = {n for case in self.cases["training"] for n in self.preset.label_space.names(case.labelled)}
        return tuple(name for name in self.preset.label_space.classes if name in annotated)

    def train(self, weights: Mapping[str, Tensor], round_number: int, stop: Callable[[], bool]) -> RoundResult:
        """One round of local steps (LocalTrainer.run_round)."""
        return self.trainer.run_round(weights, round_number, stop)

    def starting_weights(self, weights: Mapping[str, Tensor], round_number: int) -> Mapping[str, Tensor]:
        """What the site trains from in this round (LocalTrainer.starting_weights)."""
        return self.trainer.starting_weights(weights, round_number)

    def fine_tune(self, weights: Mapping[str, Tensor], stop: Callable[[], bool]) -> dict[str, float]:
        """Train the private heads on the frozen global trunk (fine_tuning.fine_tune)."""
        from fedpartial.training.fine_tuning import fine_tune

        steps = self.plan.finetune_steps
        return fine_tune(self.trainer, weights, steps, lambda state: self._validation_dice(state, stop), stop)

    def adapt(
        self, weights: Mapping[str, Tensor], way: str, plan: AdaptationPlan, stop: Callable[[], bool]
    ) -> tuple[Tuned, dict[str, list[float]]]:
        """The site's own model from the federated one (adaptation.adapt), and the validation scores of what is kept."""
        from fedpartial.training.adaptation import adapt

        scored = []

        def score(state: dict[str, Tensor]) -> float | None:
            scored.append((state, self.validation_scores(state, stop)))
            return _mean_over_classes(scored[-1][1])

        tuned = adapt(self.trainer, weights, way, plan, score, stop)
        return tuned, next(scores for state, scores in scored if state is tuned.weights)

    def _validation_dice(self, weights: Mapping[str, Tensor], stop: Callable[[], bool]) -> float | None:
        return _mean_over_classes(self.validation_scores(weights, stop))

    def validation_scores(
        self, weights: Mapping[str, Tensor], stop: Callable[[], bool] = lambda: False
    ) -> dict[str, list[float]]:
        """Quick Dice of every validation case that counts, per labelled class."""
        return quick_scores(self.loaded(weights), self.split("validation"), self.preset, self.precision, stop)

    def score(
        self,
        weights: Mapping[str, Tensor],
        stop: Callable[[], bool] = lambda: False,
        fusion: Fusion = LOG_ODDS,
        *,
        annotated: Collection[str] | None = None,
    ) -> list[CaseScores]:
        """Full scores of a model on the test cases, on their original grid.

        A site without test cases is scored on its validation cases. ``fusion`` is for a model of private heads.
        annotated: the classes that the model was taught, where that is known (networks/known_classes.py).
        """
        known, network = universal_classes(weights) or None, self.loaded(weights, annotated)
        return self.score_network(network, stop, fusion, classes=known)

    def score_network(
        self,
        network: nn.Module,
        stop: Callable[[], bool],
        fusion: Fusion = LOG_ODDS,
        *,
        classes: Collection[str] | None = None,
    ) -> list[CaseScores]:
        """The same of a network; ``classes`` are those that it knows, None for all."""
        scores = []
        for case in self.scored_cases:
            if stop():
                break
            (prediction,) = self._predict(network, case, fusion)
            scores.append(self.score_prediction(case, prediction, classes=classes))
        return scores

    def predict(
        self,
        weights: Mapping[str, Tensor],
        case: StoredCase,
        *fusions: Fusion,
        annotated: Collection[str] | None = None,
    ) -> list[np.ndarray]:
        """By each fusion channels (uint8) of a case on its image file's grid; with "per-head" masks (C H W D)."""
        return self._predict(self.loaded(weights, annotated), case, *fusions)

    def _predict(self, network: nn.Module, case: StoredCase, *fusions: Fusion) -> list[np.ndarray]:
        return predict_on_original_grid(network, case, self.preset, self.precision, *fusions)

    def score_prediction(
        self, case: StoredCase, prediction: np.ndarray, *, organs: bool = False, classes: Collection[str] | None = None
    ) -> CaseScores:
        """Scores of one predicted case against its label file.

        organs: count lesions as their organ, in prediction and reference (ConDistFL's evaluation on AMOS).
        classes: score these only; by default all that the case annotates.
        """
        # SciPy costs half a second, and a simulated train task is a new process that does not score.
        from fedpartial.evaluation.metrics import score_case

        space, reference, labelled = self.preset.label_space, self.reference(case), case.labelled
        if classes is not None:
            labelled = labelled & np.array([name in classes for name in space.channels])
        if organs:
            prediction, reference = space.merge_channels(prediction), space.merge_channels(reference)
            space, labelled = space.merged, space.merge_mask(labelled)
        spacing_mm = np.linalg.norm(case.original_affine[:3, :3], axis=0)
        return score_case(prediction, reference, spacing_mm=spacing_mm, space=space, labelled=labelled)

    def reference(self, case: StoredCase) -> np.ndarray:
        """The label file of a case as channels (uint8), on its own grid."""
        volume = load_label(case.label_path)
        return self._tables[case.folder].apply(volume.array, volume.affine)

    def image(self, case: StoredCase) -> np.ndarray:
        """The image file of a case in HU, on its own grid."""
        return load_image(case.image_path).array

    def loaded(self, weights: Mapping[str, Tensor], annotated: Collection[str] | None = None) -> nn.Module:
        """The evaluation network with these weights; the trainer's own network is left alone.

        The names say which network it is: this site's, or an assembled one with the heads of many.
        annotated: the classes that the weights were taught; others are background then.
        """
        if is_assembled(weights):
            return self.ready(build_assembled(self.preset, weights))
        classes = universal_classes(weights) or self.head_classes
        if self._network is None or self._network_classes != classes:
            self._network = self.ready(build_network(self.preset, seed=0, head_classes=classes))
            self._network_classes = classes
        load_canonical(self._network, weights)
        return self.ready(of_known_classes(self._network, self.preset, annotated))

    def ready(self, network: nn.Module) -> nn.Module:
        """The network on the site's device, for evaluation."""
        return network.to(self.precision.device, memory_format=torch.channels_last_3d).eval()


def _mean_over_classes(scores: Mapping[str, list[float]]) -> float | None:
    """Of the quick Dice; None without validation cases."""
    means = mean_dice(scores).values()
    return sum(means) / len(means) if means else None
