"""A distillation on its way, on disk: a server that is killed goes on with the same steps, bit for bit."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from fedpartial.networks.canonical import canonical_state, load_canonical
from fedpartial.training.checkpoint import read_tensors, write_tensors
from fedpartial.training.optimizer import Optimizer

log = logging.getLogger(__name__)

FILE = "distillation.safetensors"
NETWORK, OPTIMIZER = "network/", "optimizer/"


class DistillationState:
    """The file of one distillation in a folder; ``identity`` says which: the folder may hold an earlier one's."""

    def __init__(self, folder: Path, identity: str):
        self.path, self.identity = folder / FILE, identity

    def save(
        self,
        network: nn.Module,
        optimizer: Optimizer,
        scaler: torch.amp.GradScaler,
        losses: Sequence[float],
        seconds: float,
    ) -> None:
        """Write atomically; a crash leaves the state before."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        tensors = {f"{NETWORK}{name}": tensor for name, tensor in canonical_state(network).items()}
        tensors |= {f"{OPTIMIZER}{name}": tensor for name, tensor in optimizer.state().items()}
        values = {"losses": list(losses), "seconds": seconds, "scaler": scaler.state_dict()}
        write_tensors(self.path, tensors, {"identity": self.identity, "values": json.dumps(values)})

    def load(
        self, network: nn.Module, optimizer: Optimizer, scaler: torch.amp.GradScaler
    ) -> tuple[list[float], float] | None:
        """Put the state into its parts; losses and seconds so far, or None where this distillation has no state.

        A damaged file, or one of another distillation, is left aside with a line in the log.
        """
        found = self._read()
        if found is None:
            return None
        tensors, values = found
        load_canonical(network, _part(tensors, NETWORK))
        optimizer.load(_part(tensors, OPTIMIZER))
        if scaler.is_enabled() and values["scaler"]:
            scaler.load_state_dict(values["scaler"])
        log.info("distillation goes on after step %d", len(values["losses"]))
        return values["losses"], values["seconds"]

    def _read(self) -> tuple[dict[str, Tensor], dict] | None:
        if not self.path.exists():
            return None
        try:
            tensors, metadata = read_tensors(self.path)
            if metadata["identity"] == self.identity:
                return tensors, json.loads(metadata["values"])
            log.info("%s is of another distillation: this one starts anew", self.path)
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            log.warning("%s is damaged (%s): the distillation starts anew", self.path, error)
        return None


def fingerprint(plain: object, *states: Mapping[str, Tensor | np.ndarray] | None) -> str:
    """A hash of plain values and of states by name; None is no state."""
    digest = hashlib.blake2b(json.dumps(plain, sort_keys=True).encode(), digest_size=16)
    for state in states:
        digest.update(b"none" if state is None else b"state")
        for name, tensor in sorted((state or {}).items()):
            array = np.ascontiguousarray(tensor)
            digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
