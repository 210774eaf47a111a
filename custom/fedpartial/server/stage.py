"""One stage of MMDS at the server (METHODS 4.3, Algorithm 1): store what arrives, distil what is stored."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fedpartial.distillation.distiller import Distilled, Distiller
from fedpartial.distillation.entropy import SelectionRule
from fedpartial.distillation.probabilities import ProbabilityCache
from fedpartial.distillation.public_volumes import public_volumes
from fedpartial.distillation.student import Progress
from fedpartial.distillation.teachers import Teacher
from fedpartial.errors import ConfigError
from fedpartial.server.ledger import SERVER
from fedpartial.server.local_models import check_local_model
from fedpartial.server.model_store import DISTILLING, Entry, ModelStore
from fedpartial.server.store_manifest import PHANTOM
from fedpartial.server.store_place import store_folder
from fedpartial.server.stored_network import check_preset, check_start, stored_network
from fedpartial.sites import read_public
from fedpartial.training.local_trainer import TrainingStopped
from fedpartial.training.plan import Plan

log = logging.getLogger(__name__)

UP, DOWN = "up", "down"


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
        self._where = f"model store {self.folder}"
        self._withdrawals = len(self.store.removals())

    def check(self) -> None:
        """ConfigError for a stored model that cannot stand beside this job's: of other classes, grid or intensities."""
        for entry in self.store.sites().values():
            check_preset(entry, self.plan, self._where)

    def accept(self, site: str, model: object, steps: int, metrics: Mapping) -> Entry:
        """Put a site's model into the store, once it is known to fit: the version that it is there.

        That is not the one in use (``store.sites()``) where the site was rolled back and sends what it had sent before.
        metrics: of the site's answer, checked before (check_update_metrics). Work is noted for a new version only: the
        site tells its model's steps with every upload. Raises UpdateRefused for a model that does not fit, ConfigError
        for a site that has withdrawn since this stage began.
        """
        check_local_model(site, model, self.plan, self.embeddings)
        preset, known = self.plan.for_site(site).config, {entry.version for entry in self.store.history(site)}
        given = {"preset": preset, "job": self.plan.job, "source": metrics["source"], "since": self._withdrawals}
        entry = self.store.add(site, model, **given)
        if entry.version not in known:
            epochs = steps * preset.volumes_per_batch / metrics["num_training"]
            self.store.ledger.work(self.plan.job, site, steps=steps, epochs=epochs, seconds=metrics["seconds"])
        elif entry != (active := self.store.sites().get(site)) and active:
            had = f"version {entry.version} is what the site had uploaded before"
            log.warning("%s: %s; version %d stays in use", site, had, active.version)
        return entry

    def sent(self, site: str, kind: str, direction: str, count: int) -> None:
        """Note one message between a site and the server, with the bytes of its tensors; one without any is not."""
        if count:
            self.store.ledger.message(self.plan.job, site, direction, kind, count)

    def _teacher(self, entry: Entry) -> Teacher:
        def load() -> nn.Module:
            return stored_network(entry, self.store.load(entry), self.plan.config, self._where)

        return Teacher(name=entry.site, key=entry.key, classes=entry.classes, load=load)

    def distil(
        self, how: Distillation, *, stop: Callable[[], bool], on_progress: Callable[[str, int, int], None]
    ) -> Distilled:
        """A global model of all stored ones, which becomes the federation's latest (METHODS 4.3).

        On the server's public images; on the phantom's where it names none and all stored models are the phantom's.
        Stopped, or killed, it goes on where it was; after a withdrawal nothing of it stays. Raises as Distiller.run
        does, and ConfigError for no model, for one of another preset, and when a site withdraws.
        """
        self.check()
        entries, start = self.store.sites(), self._start(how)  # now: another model may come while this one is made
        if not entries:
            raise _nothing("models", "a model of one site at least", "Let a site upload first.")
        taught = {name: entry.version for name, entry in entries.items()}
        try:
            return self._distil(how, entries, start, stop, on_progress)
        except (ConfigError, OSError, RuntimeError) as error:
            gone = self.store.manifest().withdrawn(taught, start.version if start else None)
            if not gone:
                raise
            self.store.forget_distillation()
            if isinstance(error, TrainingStopped):
                raise
            raise self._withdrawn(gone) from error

    def _distil(
        self,
        how: Distillation,
        entries: Mapping[str, Entry],
        start: Entry | None,
        stop: Callable[[], bool],
        on_progress: Callable[[str, int, int], None],
    ) -> Distilled:
        preset = self.plan.config
        phantom = all(entry.source == PHANTOM for entry in entries.values())
        volumes = public_volumes(self.config_dir, preset, phantom=phantom, progress=on_progress)
        distiller = Distiller(
            preset=preset,
            volumes=volumes,
            cache=ProbabilityCache(self.store.probabilities, preset),
            rule=how.rule,
            seed=self.plan.seed,
            device=read_public(self.config_dir, preset.label_space.classes, phantom=phantom).device,
            embeddings=self.embeddings or None,
        )
        with self._noted(len(volumes), on_progress) as progress:
            found = distiller.run(
                [self._teacher(entry) for entry in entries.values()],
                steps=how.steps,
                start=self._weights(start) if start else None,
                checkpoint_dir=self.folder / DISTILLING,
                stop=stop,
                on_progress=progress,
            )
        taught = {name: entry.version for name, entry in entries.items() if name not in found.left_out}
        given = {"preset": preset, "job": self.plan.job, "start": start.version if start else None}
        self.store.add_global(to_arrays(found.weights), teachers=taught, **given)
        return found  # its last state stays until a site withdraws: the same stage again takes no step

    @contextmanager
    def _noted(self, num_volumes: int, on_progress: Callable[[str, int, int], None]) -> Iterator[Progress]:
        """Steps go into the ledger when they end, also of a distillation that is stopped and goes on another time."""
        began, steps = time.monotonic(), [0]

        def progress(what: str, done: int, total: int, loss: float | None) -> None:
            steps[0] += loss is not None
            on_progress(_shown(what, loss), done, total)

        try:
            yield progress
        finally:
            if steps[0]:
                epochs = steps[0] * self.plan.config.volumes_per_batch / num_volumes
                seconds = time.monotonic() - began
                self.store.ledger.work(self.plan.job, SERVER, steps=steps[0], epochs=epochs, seconds=seconds)

    def _start(self, how: Distillation) -> Entry | None:
        """The latest global model, where there is one and the stage goes on from it.

        ConfigError for one of another network, and for one that has learnt from who has withdrawn.
        """
        entry, manifest = self.store.latest_global(), self.store.manifest()
        if not how.warm_start or entry is None:
            return None
        check_preset(entry, self.plan, self._where)
        check_start(entry, self.plan.config, self._where)
        if gone := manifest.withdrawn(entry.teachers, entry.start):
            names = ", ".join(dict.fromkeys(name for name, _ in gone))
            other = f"or delete it: fedpartial store remove {names} --with-globals"
            raise ConfigError(
                where=self._where,
                field="warm_start",
                got=f"global model {entry.version}, which has learnt from {names}, withdrawn since",
                expected="a global model that has learnt from nobody who has withdrawn",
                remedy=f"Set warm_start to false in the job, roll the global model back, {other}",
            )
        return entry

    def _weights(self, entry: Entry) -> dict[str, Tensor]:
        return {name: torch.from_numpy(value) for name, value in self.store.load(entry).items()}

    def _withdrawn(self, gone: Sequence[tuple[str, int]]) -> ConfigError:
        names = ", ".join(dict.fromkeys(name for name, _ in gone))
        return ConfigError(
            where=self._where,
            field="distillation",
            got=f"{names} withdrew, and what had been learnt is deleted",
            expected="teachers that are in the store when their global model is stored",
            remedy="Start the stage again: it distils without it.",
        )

    def global_model(self) -> dict[str, np.ndarray]:
        """The federation's latest; ConfigError before its first stage."""
        entry = self.store.latest_global()
        if entry is None:
            raise _nothing("global", "a global model", "Run a stage first, which distils one.")
        return self.store.load(entry)


def _nothing(field: str, expected: str, remedy: str) -> ConfigError:
    return ConfigError(where="model store", field=field, got="none", expected=expected, remedy=remedy)


def _shown(what: str, loss: float | None) -> str:
    return what if loss is None else f"{what}, loss {loss:.3f}, step"


def to_arrays(weights: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in weights.items()}
