"""The joined norm and activation, and the pointwise convolution, against torch's operations."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import instance_norm, leaky_relu

from fedpartial.networks import channels_last as module
from fedpartial.networks.channels_last import InstanceNormLeakyReLU, PointwiseConv

SLOPE = 0.01


@pytest.fixture(params=["whole", "blocks"])
def way(request, monkeypatch):
    """Samples taken at once, and in blocks that do not divide them."""
    if request.param == "blocks":
        monkeypatch.setattr(module, "WHOLE", 0)
        monkeypatch.setattr(module, "BLOCK", 100)


def norm(channels: int, kind: torch.dtype) -> InstanceNormLeakyReLU:
    plain = nn.InstanceNorm3d(channels, affine=True)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        plain.weight.copy_(torch.rand(channels, generator=generator) - 0.3)
        plain.bias.copy_(torch.rand(channels, generator=generator) - 0.5)
    return InstanceNormLeakyReLU(plain, SLOPE).to(kind)


def noise(shape: tuple[int, ...], kind: torch.dtype) -> torch.Tensor:
    x = 3 + 2 * torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return x.to(kind).to(memory_format=torch.channels_last_3d)


def two_operations(x: torch.Tensor, layer: InstanceNormLeakyReLU) -> torch.Tensor:
    return leaky_relu(instance_norm(x, weight=layer.weight, bias=layer.bias, eps=layer.eps), SLOPE)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5, 6), (1, 8, 4, 4, 4), (3, 1, 3, 5, 7), (2, 300, 2, 2, 2)])
def test_values_and_gradients_are_those_of_torch(way, shape):
    layer, x = norm(shape[1], torch.float64), noise(shape, torch.float64).requires_grad_()
    weights = torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    found, expected = layer(x), two_operations(x, layer)
    assert type(found.grad_fn).__name__ == "_NormActBackward", "the plain way was taken"
    torch.testing.assert_close(found, expected)
    wanted = [x, layer.weight, layer.bias]
    for ours, theirs in zip(
        torch.autograd.grad((found * weights).sum(), wanted),
        torch.autograd.grad((expected * weights).sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_gradcheck(way):
    layer, x = norm(2, torch.float64), noise((2, 2, 3, 2, 2), torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(layer, (x,))


def test_half_precision_is_as_near_as_its_numbers_allow(way):
    layer, x = norm(4, torch.float32), noise((2, 4, 8, 8, 8), torch.float64)
    found = layer(x.bfloat16())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), two_operations(x, layer.double()), rtol=0.02, atol=0.03)


def test_float32_statistics_of_many_voxels_are_as_good_as_torchs():
    x = noise((1, 2, 64, 64, 65), torch.float32)
    layer = norm(2, torch.float32)
    with torch.no_grad():
        exact = two_operations(x.double(), norm(2, torch.float64))
        ours, torchs = ((f(x).double() - exact).abs().max() for f in (layer, lambda x: two_operations(x, layer)))
    assert ours < 3 * torchs


@pytest.mark.parametrize("fill", [torch.zeros, torch.rand])
def test_other_memory_and_constant_images_are_taken(fill):
    layer, x = norm(4, torch.float32), fill(2, 4, 3, 4, 5)
    torch.testing.assert_close(layer(x), two_operations(x, layer))


def test_a_pointwise_convolution_is_the_convolution():
    conv = nn.Conv3d(3, 2, 1).double()
    x = noise((2, 3, 4, 5, 6), torch.float64).requires_grad_()
    found, expected = PointwiseConv(conv)(x), conv(x)
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(
        torch.autograd.grad(found.square().sum(), [x, conv.weight, conv.bias]),
        torch.autograd.grad(expected.square().sum(), [x, conv.weight, conv.bias]),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_on_the_meta_device_the_plain_operations_are_taken():
    x = torch.zeros(1, 4, 3, 4, 5, device="meta")
    assert norm(4, torch.float32).to("meta")(x).shape == PointwiseConv(nn.Conv3d(4, 4, 1)).to("meta")(x).shape


def test_one_voxel_is_refused_as_by_torch():
    with pytest.raises(ValueError, match="more than 1 spatial element"):
        norm(4, torch.float32)(torch.zeros(1, 4, 1, 1, 1).to(memory_format=torch.channels_last_3d))
