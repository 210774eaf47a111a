"""The server's own test set: fully labelled as far as may be, from none of the sites, scored after the last round.

``models`` maps a class to the model that answers for it: one global model for all of them, or, for standalone
training, the local model of a site that annotates the class.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch

from fedpartial.data.stored_case import StoredCase
from fedpartial.evaluation.metrics import CaseScores
from fedpartial.evaluation.overlays import case_mean, overlay_picture, pick_cases
from fedpartial.evaluation.record import EXTERNAL, Overlay
from fedpartial.networks.assembled import is_assembled
from fedpartial.networks.fusion import LOG_ODDS, PER_HEAD, Fusion
from fedpartial.sites import SiteConfig, phantom_site, read_site, site_file
from fedpartial.training.plan import Plan
from fedpartial.training.site_session import SiteSession

PREDICTIONS = "predictions"
KEPT_PREDICTIONS = 20
"""Label maps that a run keeps unless its job says otherwise: enough to look at, little to download."""


def external_site(config_dir: Path, *, phantom: bool) -> SiteConfig | None:
    """The server's site file, else the phantom's external set when ``phantom``, else none."""
    if site_file(config_dir, EXTERNAL).exists():
        return read_site(EXTERNAL, config_dir)
    return phantom_site(EXTERNAL) if phantom else None


def prediction_file(folder: Path, number: int, model: str = "") -> Path:
    """Where a run keeps the label map of an external case; ``model`` for one of several."""
    return folder / PREDICTIONS / model / f"{EXTERNAL}_{number:02d}.nii.gz"


@dataclass(frozen=True, kw_only=True)
class ExternalScores:
    """Scores by case; ``organs`` count lesions as their organ, [] where the label space has no lesions.

    ``heads`` score each class from the mask of its own head, before fusion; [] for a model without heads.
    """

    cases: list[CaseScores]
    organs: list[CaseScores]
    heads: list[CaseScores]
    overlays: list[Overlay]


class ExternalSet:
    """Predicts and scores every case of the external set."""

    def __init__(
        self,
        site: SiteConfig,
        plan: Plan,
        fusion: Fusion = LOG_ODDS,
        taught: Collection[str] | None = None,
    ):
        """taught: the classes that the models know, where that is known (networks/known_classes.py)."""
        self.fusion, self.taught = fusion, taught
        self.session = SiteSession(site=site, plan=plan, method=None, state_dir=Path())
        self.space = self.session.preset.label_space

    def score(
        self,
        models: Mapping[str, Mapping[str, np.ndarray]],
        owners: Mapping[str, str],
        folder: Path,
        stop: Callable[[], bool],
        *,
        keep: int = KEPT_PREDICTIONS,
    ) -> ExternalScores:
        """Score with the model that ``owners`` names for each class, and keep the first label maps in ``folder``.

        A label map of several models holds each one's own classes; where two claim a voxel, the later name has it.
        """
        scores, organs, heads, predictions = [], [], [], []
        for number, case in enumerate(self.session.scored_cases, start=1):
            if stop():
                break
            by_model = {}
            for name, weights in models.items():
                by_model[name], *masks = self._predict(weights, case)
                heads += [self._score_heads(case, mask, owners) for mask in masks]
            predictions.append(self._one_map(by_model, owners))
            scores.append(self._score(case, by_model, owners, organs=False))
            if self.space.lesions:
                organs.append(self._score(case, by_model, owners, organs=True))
            if number <= keep:
                self._keep(folder, number, case, predictions[-1], by_model)
        overlays = [self._overlay(which, i, scores[i], predictions[i]) for which, i in pick_cases(scores).items()]
        return ExternalScores(cases=scores, organs=organs, heads=heads, overlays=overlays)

    def _predict(self, weights: Mapping[str, np.ndarray], case: StoredCase) -> list[np.ndarray]:
        """The label map of a case, and where the model has heads their masks."""
        tensors = {name: torch.from_numpy(np.array(value)) for name, value in weights.items()}
        fusions = (self.fusion, PER_HEAD) if is_assembled(weights) else (LOG_ODDS,)
        return self.session.predict(tensors, case, *fusions, annotated=self.taught)

    def _score_heads(self, case: StoredCase, masks: np.ndarray, owners: Mapping[str, str]) -> CaseScores:
        """Each class from the mask of its own head (C H W D); the masks may overlap."""
        parts = []
        for name in self.space.names(case.labelled):
            if name in owners:
                channel = self.space.index(name)
                alone = np.where(masks[channel] > 0, channel, 0).astype(np.uint8)
                parts.append(self.session.score_prediction(case, alone, classes=[name]))
        return _joined(parts, self.space.classes)

    def _score(
        self, case: StoredCase, by_model: Mapping[str, np.ndarray], owners: Mapping[str, str], *, organs: bool
    ) -> CaseScores:
        parts = []
        for name, prediction in by_model.items():
            own = [c for c in self.space.names(case.labelled) if owners.get(c) == name]
            if own:
                parts.append(self.session.score_prediction(case, prediction, organs=organs, classes=own))
        return _joined(parts, (self.space.merged if organs else self.space).classes)

    def _one_map(self, by_model: Mapping[str, np.ndarray], owners: Mapping[str, str]) -> np.ndarray:
        result = np.zeros_like(next(iter(by_model.values())))
        for name, prediction in sorted(by_model.items()):
            own = [self.space.index(c) for c, owner in owners.items() if owner == name]
            result = np.where(np.isin(prediction, own), prediction, result)
        return result

    def _keep(
        self, folder: Path, number: int, case: StoredCase, prediction: np.ndarray, by_model: Mapping[str, np.ndarray]
    ) -> None:
        """Label maps by number, never by the case's name; of several models each one's own as well."""
        import nibabel as nib

        maps = {"": prediction}
        if len(by_model) > 1:
            maps |= {name.replace(" ", "_"): channels for name, channels in by_model.items()}
        for name, channels in maps.items():
            path = prediction_file(folder, number, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(channels, case.original_affine, dtype=np.uint8), path)

    def _overlay(self, which: str, index: int, scores: CaseScores, prediction: np.ndarray) -> Overlay:
        session, case, dice = self.session, self.session.scored_cases[index], case_mean(scores)
        title = f"{which} external case (case {index + 1}, mean Dice {dice:.2f})"
        png = overlay_picture(
            session.image(case),
            session.reference(case),
            prediction,
            affine=case.original_affine,
            space=self.space,
            title=title,
        )
        return Overlay(title=title, site=EXTERNAL, dice=dice, png=png)


def _joined(parts: list[CaseScores], classes: tuple[str, ...]) -> CaseScores:
    """The scores of several models of one case, each of its own classes, in channel order."""
    values = {}
    for field in fields(CaseScores):
        found = {name: value for part in parts for name, value in getattr(part, field.name).items()}
        values[field.name] = {name: found[name] for name in classes if name in found}
    return CaseScores(**values)
