"""Weights between the network's tensors and FLARE's messages."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from nvflare.apis.shareable import Shareable
from torch import Tensor

METRICS = "fedpartial_metrics"


def to_arrays(state: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Canonical state -> numpy arrays sharing its memory."""
    return {name: tensor.detach().cpu().numpy() for name, tensor in state.items()}


def to_tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Arrays of a message -> tensors; a copy where the message's memory is read-only."""
    return {name: torch.from_numpy(np.array(value, copy=not value.flags.writeable)) for name, value in arrays.items()}


def update_message(update: Mapping[str, Tensor], num_steps: int, metrics: dict) -> Shareable:
    """A site's answer to a train task."""
    dxo = DXO(data_kind=DataKind.WEIGHT_DIFF, data=to_arrays(update))
    dxo.set_meta_prop(MetaKey.NUM_STEPS_CURRENT_ROUND, num_steps)
    dxo.set_meta_prop(METRICS, metrics)
    return dxo.to_shareable()


def weights_of_task(task: Shareable) -> dict[str, Tensor]:
    """The global model a task carries."""
    return to_tensors(from_shareable(task).data)


def payload_bytes(arrays: Mapping[str, np.ndarray]) -> int:
    """Bytes of the tensors in a message, without FLARE's envelope."""
    return sum(int(np.asarray(value).nbytes) for value in arrays.values())
