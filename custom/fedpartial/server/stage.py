"""One stage of MMDS at the server (METHODS 4.3, Algorithm 1): store what arrives, distil what is stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fedpartial.distillation.distiller import Distilled, Distiller
from fedpartial.distillation.entropy import SelectionRule
from fedpartial.distillation.probabilities import ProbabilityCache
from fedpartial.distillation.public_volumes import public_volumes
from fedpartial.distillation.teachers import Teacher
from fedpartial.errors import ConfigError
from fedpartial.networks.build import build_network
from fedpartial.networks.canonical import load_canonical
from fedpartial.presets import get_preset
from fedpartial.server.local_models import check_local_model
from fedpartial.server.model_store import Entry, ModelStore
from fedpartial.server.store_place import store_folder
from fedpartial.training.plan import Plan

SERVER = "server"
UP, DOWN = "up", "down"
DISTILLING = "distilling"


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """How a stage distils: rule of selection, steps, and whether it goes on from the latest global model."""

    steps: int
    rule: SelectionRule
    warm_start: bool = False


class Stage:
    """The federation's store, and what this job does with it.

    embeddings: the vectors of the classes by name, where the job brings some; {} for those that follow from the names.
    """

    def __init__(self, plan: Plan, config_dir: Path, embeddings: Mapping[str, np.ndarray]):
        self.plan, self.config_dir, self.embeddings = plan, config_dir, embeddings
        self.folder = store_folder(config_dir, plan.federation)
        self.store = ModelStore(self.folder)

    def accept(self, site: str, model: object, steps: int, metrics: Mapping) -> Entry:
        """Put a site's model into the store, once it is known to fit; UpdateRefused for one that does not.

        metrics: of the site's answer, checked before (check_update_metrics).
        """
        check_local_model(site, model, self.plan, self.embeddings)
        preset = self.plan.for_site(site).config
        entry = self.store.add(site, model, preset=preset, job=self.plan.job)
        epochs = steps * preset.volumes_per_batch / metrics["num_training"]
        self.store.ledger.work(self.plan.job, site, steps=steps, epochs=epochs, seconds=metrics["seconds"])
        return entry

    def sent(self, site: str, kind: str, direction: str, count: int) -> None:
        """Note one message between a site and the server, with the bytes of its tensors; one without any is not."""
        if count:
            self.store.ledger.message(self.plan.job, site, direction, kind, count)

    def _teacher(self, entry: Entry) -> Teacher:
        def load() -> nn.Module:
            network = build_network(get_preset(entry.preset), seed=0, head_classes=entry.classes)
            load_canonical(network, {name: torch.from_numpy(value) for name, value in self.store.load(entry).items()})
            return network

        return Teacher(name=entry.site, key=entry.key, classes=entry.classes, load=load)

    def distil(
        self,
        how: Distillation,
        *,
        phantom: bool,
        stop: Callable[[], bool],
        on_progress: Callable[[str, int, int], None],
    ) -> Distilled:
        """A global model of all stored ones, which becomes the federation's latest (METHODS 4.3).

        phantom: distil on the phantom's public images where the server names none of its own.
        """
        preset, entries = self.plan.config, self.store.sites()  # now: another model may come while this one is made
        if not entries:
            raise ConfigError(
                where="model store",
                field="models",
                got="none",
                expected="a model of one site at least",
                remedy="Let a site upload first.",
            )
        volumes = public_volumes(self.config_dir, preset, phantom=phantom, progress=on_progress)
        distiller = Distiller(
            preset=preset,
            volumes=volumes,
            cache=ProbabilityCache(self.store.probabilities, preset),
            rule=how.rule,
            seed=self.plan.seed,
            embeddings=self.embeddings or None,
        )
        found = distiller.run(
            [self._teacher(entry) for entry in entries.values()],
            steps=how.steps,
            start=self._start(how),
            checkpoint_dir=self.folder / DISTILLING,
            stop=stop,
            on_progress=lambda what, done, total, loss: on_progress(_shown(what, loss), done, total),
        )
        weights = to_arrays(found.weights)
        taught = {name: entry.version for name, entry in entries.items()}
        self.store.add_global(weights, preset=preset, job=self.plan.job, teachers=taught)
        epochs = how.steps * preset.volumes_per_batch / len(volumes)
        self.store.ledger.work(self.plan.job, SERVER, steps=how.steps, epochs=epochs, seconds=found.seconds)
        return found

    def _start(self, how: Distillation) -> dict[str, Tensor] | None:
        """The latest global model, where there is one and the stage goes on from it."""
        if not how.warm_start or self.store.latest_global() is None:
            return None
        return {name: torch.from_numpy(value) for name, value in self.global_model().items()}

    def global_model(self) -> dict[str, np.ndarray]:
        """The federation's latest; ConfigError before its first stage."""
        entry = self.store.latest_global()
        if entry is None:
            expected, remedy = "a global model", "Run a stage first, which distils one."
            raise ConfigError(where="model store", field="global", got="none", expected=expected, remedy=remedy)
        return self.store.load(entry)


def _shown(what: str, loss: float | None) -> str:
    return what if loss is None else f"{what}, loss {loss:.3f}, step"


def to_arrays(weights: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in weights.items()}
