"""Weights between the network's tensors and FLARE's messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from nvflare.apis.shareable import Shareable
from torch import Tensor

from fedpartial.networks.wire import Wire, from_wire, to_wire

METRICS = "fedpartial_metrics"
MODELS = "fedpartial_models"
"""Whole models by name in a task of the final evaluation."""
CONTENT = "DXO"
WEIGHT_KINDS = (DataKind.WEIGHTS, DataKind.WEIGHT_DIFF)


def to_arrays(state: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Canonical state -> numpy arrays in C order, as other filters expect them; they share its memory if they can.

    Networks that train channels-last have parameters in another order.
    """
    return {name: np.asarray(tensor.detach().cpu().numpy(), order="C") for name, tensor in state.items()}


def to_tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Arrays of a message -> tensors, half precision as float32; a copy where the message's memory is read-only."""
    values = from_wire(arrays).items()
    return {name: torch.from_numpy(np.array(value, copy=not value.flags.writeable)) for name, value in values}


def update_message(update: Mapping[str, Tensor], num_steps: int, metrics: dict) -> Shareable:
    """A site's answer to a train task."""
    dxo = DXO(data_kind=DataKind.WEIGHT_DIFF, data=to_arrays(update))
    dxo.set_meta_prop(MetaKey.NUM_STEPS_CURRENT_ROUND, num_steps)
    dxo.set_meta_prop(METRICS, metrics)
    return dxo.to_shareable()


def weights_of_task(task: Shareable) -> dict[str, Tensor]:
    """The global model a task carries."""
    return to_tensors(from_shareable(task).data)


def narrow(message: Shareable, wire: Wire) -> None:
    """Let the tensors of a message be what the plan's wire says: the server's last act before a task leaves, and a
    site's before it answers. The site's privacy filters come after it and see what travels.

    ConfigError for a value that the wire cannot hold.
    """
    if wire == "float32":
        return
    if MODELS in message:
        message[MODELS] = {name: to_wire(arrays, wire) for name, arrays in message[MODELS].items()}
    if CONTENT in message and (dxo := from_shareable(message)).data_kind in WEIGHT_KINDS:
        dxo.data = to_wire(dxo.data, wire)
        dxo.update_shareable(message)


def message_bytes(content: object) -> int:
    """Bytes of all tensors in a message, wherever in it they are, without FLARE's envelope."""
    if isinstance(content, np.ndarray | np.generic | Tensor):
        return int(content.nbytes)
    if isinstance(content, Mapping):
        return sum(map(message_bytes, content.values()))
    return sum(map(message_bytes, content)) if isinstance(content, Sequence) and not isinstance(content, str) else 0


def payload_bytes(arrays: Mapping[str, np.ndarray]) -> int:
    """Bytes of the tensors in a message, without FLARE's envelope."""
    return sum(int(np.asarray(value).nbytes) for value in arrays.values())
