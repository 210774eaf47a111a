"""What travels keeps its names, types, shapes and values through FLARE's serialisation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from in_process import on_the_wire
from nvflare.apis.dxo import DataKind, MetaKey, from_shareable
from nvflare.apis.shareable import Shareable
from nvflare.app_common.abstract.model import make_model_learnable
from nvflare.app_common.shareablegenerators.full_model_shareable_generator import FullModelShareableGenerator

from fedpartial.flare.learner import MODELS
from fedpartial.flare.weights import METRICS, payload_bytes, to_arrays, to_tensors, update_message, weights_of_task

METRIC_VALUES = {"loss": 1.25, "val_dice": {"liver": 0.5}, "seconds": 3.0, "bytes_down": 10, "device": "cpu"}


def assert_same(found: dict, expected: dict) -> None:
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert isinstance(found[name], np.ndarray)
        assert (found[name].dtype, found[name].shape) == (value.dtype, value.shape), name
        assert np.array_equal(found[name], value), name


def test_an_update_arrives_as_it_was_sent(weights):
    update = {name: torch.from_numpy(value) for name, value in weights.items()}
    dxo = from_shareable(on_the_wire(update_message(update, 25, METRIC_VALUES)))
    assert dxo.data_kind == DataKind.WEIGHT_DIFF
    assert_same(dxo.data, weights)
    assert dxo.get_meta_prop(MetaKey.NUM_STEPS_CURRENT_ROUND) == 25
    assert type(dxo.get_meta_prop(MetaKey.NUM_STEPS_CURRENT_ROUND)) is int
    assert dxo.get_meta_prop(METRICS) == METRIC_VALUES


def test_a_train_task_arrives_as_it_was_sent(weights):
    task = FullModelShareableGenerator().learnable_to_shareable(make_model_learnable(dict(weights), {}), None)
    found = weights_of_task(on_the_wire(task))
    assert_same(to_arrays(found), weights)
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}


def test_an_evaluation_task_arrives_as_it_was_sent(weights):
    task = Shareable()
    task[MODELS] = {"final": weights, "local liver": {name: value + 1 for name, value in weights.items()}}
    received = on_the_wire(task)[MODELS]
    assert list(received) == ["final", "local liver"]
    for model, arrays in task[MODELS].items():
        assert_same(received[model], arrays)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 1, 3, 3, 3)])
def test_every_kind_of_tensor_arrives(dtype, shape):
    value = np.arange(int(np.prod(shape)), dtype=dtype).reshape(shape)
    task = Shareable()
    task[MODELS] = {"final": {"t": value}}
    assert_same(on_the_wire(task)[MODELS]["final"], {"t": value})


def test_special_values_arrive_bit_for_bit():
    value = np.float32([np.nan, np.inf, -np.inf, -0.0, 1e-45])
    task = Shareable()
    task[MODELS] = {"final": {"t": value}}
    assert on_the_wire(task)[MODELS]["final"]["t"].tobytes() == value.tobytes()


def test_tensors_of_a_read_only_message_can_be_changed(weights):
    frozen = {name: value.copy() for name, value in weights.items()}
    for value in frozen.values():
        value.flags.writeable = False
    for tensor in to_tensors(frozen).values():
        tensor.add_(1.0)
    assert all(np.array_equal(frozen[name], weights[name]) for name in weights)


def test_payload_counts_every_tensor_once(weights):
    assert payload_bytes(weights) == 4 * sum(value.size for value in weights.values())
    assert payload_bytes({"a": np.zeros((2, 3), np.float16), "b": np.float64(1)}) == 12 + 8
    assert payload_bytes({}) == 0


def test_arrays_of_a_network_on_parameters_carry_no_gradient():
    layer = torch.nn.Linear(2, 2)
    assert isinstance(to_arrays(dict(layer.named_parameters()))["weight"], np.ndarray)


def test_parameters_that_lie_channels_last_leave_in_c_order():
    """FLARE's AdaQuantizer flattens without a copy, which other orders do not allow."""
    weight = torch.randn(2, 3, 2, 2, 2).to(memory_format=torch.channels_last_3d)
    found = to_arrays({"weight": weight, "scale": torch.tensor(2.0)})
    assert found["weight"].flags.c_contiguous
    assert np.array_equal(found["weight"], weight.numpy())
    assert found["scale"].shape == ()
