"""Score the models that a watched run left: mean external organ Dice, with the package's own inference and metrics.

Where there is no global model by round it is put together here from what the sites keep: SegViz's assembled model from
the trunk and the private parts, standalone training's answer from the model of a site that annotates the class.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from fedpartial.evaluation.record import EXTERNAL
from fedpartial.evaluation.summary import statistics
from fedpartial.flare.persistor import GLOBAL_MODEL, TRUNK_MODEL
from fedpartial.networks.assembled import assemble
from fedpartial.networks.universal import universal_classes
from fedpartial.sites import SiteConfig, SitePool, phantom_site, read_site
from fedpartial.training.checkpoint import read_tensors
from fedpartial.training.local_trainer import WEIGHTS
from fedpartial.training.model_file import load_model
from fedpartial.training.plan import Plan
from fedpartial.training.site_session import SiteSession

NO_FOLDER = Path("no site files, so every site is the phantom's")
Weights = Mapping[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Answering:
    """The models of one moment; ``owners``: class -> the model that answers for it. ``taught`` as in known_classes."""

    models: dict[str, Weights]
    owners: dict[str, str]
    taught: tuple[str, ...] | None = None


class Judge:
    """The external set and the sites of a job on the phantom; opening it prepares all their cases."""

    def __init__(self, plan: Plan, sites: tuple[str, ...]):
        self.plan, self.space = plan, plan.config.label_space
        self.external = self._open(phantom_site(EXTERNAL), plan)
        configured = {name: read_site(name, NO_FOLDER) for name in sites}
        self.sites = {name: self._open(site, plan.for_site(name)) for name, site in configured.items()}

    def _open(self, site: SiteConfig | SitePool, plan: Plan) -> SiteSession:
        return SiteSession(site=site, plan=plan, method=None, state_dir=Path())

    def organ_dice(self, answering: Answering) -> dict[str, float | None]:
        """Organ -> mean Dice over the external cases, lesions counted as their organ, as in report.json."""
        found: dict[str, list[float | None]] = {}
        for case in self.external.scored_cases:
            for name, weights in answering.models.items():
                own = [c for c in self.space.names(case.labelled) if answering.owners.get(c) == name]
                if not own:
                    continue
                (prediction,) = self.external.predict(_tensors(weights), case, annotated=answering.taught)
                scores = self.external.score_prediction(case, prediction, organs=bool(self.space.lesions), classes=own)
                for organ, dice in scores.dice.items():
                    found.setdefault(organ, []).append(dice)
        return {organ: statistics(values)["mean"] for organ, values in found.items()}

    def read(self, folder: Path) -> Answering:
        """The models that a ModelKeeper kept in ``folder``."""
        states = {site: _own_part(folder / f"{site}.safetensors") for site in self.sites}
        states = {site: part for site, part in states.items() if part}
        if (folder / GLOBAL_MODEL).exists():
            weights, info = load_model(folder / GLOBAL_MODEL)
            return self._one(weights, universal_classes(weights) or info.annotated, info.annotated)
        if (folder / TRUNK_MODEL).exists() or self.plan.private_heads:
            trunk = load_model(folder / TRUNK_MODEL)[0] if (folder / TRUNK_MODEL).exists() else {}
            return self._one(assemble(trunk, states, self._sizes()))
        return Answering(models=states, owners=self._owners())

    def _one(self, weights: Weights, classes: tuple | None = None, taught: tuple | None = None) -> Answering:
        owners = dict.fromkeys(classes or self.space.classes, "global")
        return Answering(models={"global": weights}, owners=owners, taught=taught)

    def _sizes(self) -> dict[str, int]:
        return {name: len(session.split("training")) for name, session in self.sites.items()}

    def _owners(self) -> dict[str, str]:
        """As in the report: of several sites that annotate a class the one with most training cases."""
        sizes, owners = self._sizes(), {}
        for site in sorted(sizes, key=lambda name: (sizes[name], name)):
            for case in self.sites[site].split("training"):
                owners |= dict.fromkeys(self.space.names(case.labelled), site)
        return owners

    def validation_seconds(self, folder: Path) -> dict[str, float]:
        """Site -> CPU seconds to score the models in ``folder`` on its validation cases; {} without such a score."""
        if self.plan.federation:
            return {}
        found = {}
        for name, session in self.sites.items():
            weights = self._trained_from(folder, name)
            session.validation_scores(weights)  # imports and first touches are part of a site's start
            started = time.process_time()
            session.validation_scores(weights)
            found[name] = time.process_time() - started
        return found

    def _trained_from(self, folder: Path, site: str) -> dict[str, torch.Tensor]:
        """What the site would train from after these models."""
        shared = next((folder / name for name in (GLOBAL_MODEL, TRUNK_MODEL) if (folder / name).exists()), None)
        weights = load_model(shared)[0] if shared else {}
        return _tensors({**weights, **_own_part(folder / f"{site}.safetensors")})

    def image_bytes(self) -> dict[str, int]:
        """Hospital -> bytes of its images and labels for training and validation, for central training."""
        moved: dict[str, int] = {}
        for session in self.sites.values():
            for member in session.site.members:
                root = member.data_root.resolve()
                cases = session.split("training") + session.split("validation")
                files = {path.resolve() for case in cases for path in (case.image_path, case.label_path)}
                moved[member.name] = sum(path.stat().st_size for path in files if root in path.parents)
        return moved


def _own_part(path: Path) -> dict[str, np.ndarray]:
    """What a site keeps for itself, from the file of its state; {} for a site without one."""
    tensors = read_tensors(path)[0] if path.exists() else {}
    return {name.removeprefix(WEIGHTS): t.numpy() for name, t in tensors.items() if name.startswith(WEIGHTS)}


def _tensors(weights: Weights) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.array(value)) for name, value in weights.items()}
