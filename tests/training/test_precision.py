"""Which device and which arithmetic a site uses."""

import contextlib

import pytest
import torch

from fedpartial.errors import ConfigError
from fedpartial.training.precision import Precision, select_precision


@pytest.fixture
def machine(monkeypatch):
    """A machine with the given abilities: ``machine(avx=True)``, ``machine(cuda=True, cuda_bf16=False)``."""

    def be(*, avx=False, amx=False, cuda=False, cuda_bf16=False):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: cuda_bf16)

    return be


@pytest.mark.parametrize(
    ("abilities", "device", "dtype", "scaler"),
    [
        ({}, "cpu", torch.float32, False),
        ({"avx": True}, "cpu", torch.bfloat16, False),
        ({"amx": True}, "cpu", torch.bfloat16, False),
        ({"cuda": True, "cuda_bf16": True}, "cuda", torch.bfloat16, False),
        ({"cuda": True}, "cuda", torch.float16, True),
        ({"cuda": True, "avx": True}, "cuda", torch.float16, True),
    ],
)
def test_auto_takes_the_best_that_is_safe(machine, abilities, device, dtype, scaler):
    machine(**abilities)
    precision = select_precision("auto")
    assert (precision.device.type, precision.dtype, precision.needs_scaler) == (device, dtype, scaler)
    assert precision.name == str(dtype).split(".")[1]


def test_a_named_cpu_is_taken_although_there_is_cuda(machine):
    machine(cuda=True, cuda_bf16=True)
    assert select_precision("cpu") == Precision(device=torch.device("cpu"), dtype=torch.float32)


@pytest.mark.parametrize("device", ["quantum", "", "cuda:x", "gpu"])
def test_an_unknown_device_is_refused_with_its_place(device):
    with pytest.raises(ConfigError) as caught:
        select_precision(device, where="/local/sites/north.json")
    assert (caught.value.where, caught.value.field, caught.value.got) == ("/local/sites/north.json", "device", device)
    assert "auto" in caught.value.remedy


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the device")
@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_a_device_that_the_machine_lacks_is_refused(device):
    with pytest.raises(ConfigError, match="auto"):
        select_precision(device)


def test_autocast_changes_the_networks_arithmetic_only_where_it_should():
    layer, x = torch.nn.Conv3d(1, 1, 1), torch.ones(1, 1, 2, 2, 2)
    cpu = torch.device("cpu")
    with Precision(device=cpu, dtype=torch.bfloat16).autocast():
        assert layer(x).dtype == torch.bfloat16
    with Precision(device=cpu, dtype=torch.float32).autocast() as context:
        assert context is None
        assert layer(x).dtype == torch.float32
    assert isinstance(Precision(device=cpu, dtype=torch.float32).autocast(), contextlib.nullcontext)
