"""Every change of intensities is MONAI's of the same parameters, and leaves its input alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from fedpartial.data import intensities

SIGMA = (0.6, 1.0, 1.5)


def image_of(shape=(21, 18, 13)) -> torch.Tensor:
    """Air, tissue and noise in the range of a normalised CT."""
    rng = np.random.default_rng(0)
    smooth = np.sin(np.indices(shape).sum(0) / 3) * 3
    return torch.from_numpy((smooth + rng.normal(0, 0.3, shape)).clip(-3.08, 3.16).astype(np.float32))


def monai(name: str, *arguments, **options) -> Callable[[torch.Tensor], torch.Tensor]:
    def changed(image: torch.Tensor) -> torch.Tensor:
        from monai import transforms

        transform = getattr(transforms, name)(*arguments, **options)
        return torch.as_tensor(transform(image[None])[0]).as_subclass(torch.Tensor)

    return changed


PAIRS = {
    "blur": (lambda x: intensities.blur(x, SIGMA), monai("GaussianSmooth", sigma=SIGMA)),
    "narrow blur": (lambda x: intensities.blur(x, (0.5,) * 3), monai("GaussianSmooth", sigma=(0.5,) * 3)),
    "brighter": (lambda x: intensities.scale(x, 1.3), monai("ScaleIntensity", None, None, factor=0.3)),
    "darker": (lambda x: intensities.scale(x, 0.7), monai("ScaleIntensity", None, None, factor=-0.3)),
    "contrast": (
        lambda x: intensities.scale_in_range(x, 1.4),
        monai("ScaleIntensityFixedMean", factor=0.4, fixed_mean=False, preserve_range=True),
    ),
    "gamma": (lambda x: intensities.gamma(x, 0.8), monai("AdjustContrast", 0.8)),
    "inverse gamma": (lambda x: intensities.inverse_gamma(x, 1.2), monai("AdjustContrast", 1.2, invert_image=True)),
    "low resolution": (
        lambda x: intensities.lower_resolution(x, 0.6),
        monai("RandSimulateLowResolution", prob=1.0, zoom_range=(0.6, 0.6), downsample_mode="nearest-exact"),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_as_monai(name):
    ours, theirs = PAIRS[name]
    image = image_of()
    before = image.clone()
    found = ours(image)
    torch.testing.assert_close(found, theirs(image), rtol=1e-5, atol=1e-5)
    assert torch.equal(image, before)
    assert (found - image).abs().max() > 0.1
    assert (found.dtype, found.shape, type(found)) == (torch.float32, image.shape, torch.Tensor)


def test_noise_has_its_deviation_in_every_voxel_of_its_own():
    image = torch.zeros(40, 40, 40)
    noise = intensities.add_noise(image, 0.05, np.random.default_rng(0))
    assert abs(float(noise.std()) - 0.05) < 0.001
    assert abs(float(noise.mean())) < 0.001
    assert abs(float((noise[1:] * noise[:-1]).mean())) < 0.05**2 * 0.02
    assert torch.equal(intensities.add_noise(image, 0.05, np.random.default_rng(0)), image + noise)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 1.5])
def test_a_gaussians_weights_are_its_integral_over_each_voxel(sigma):
    weights = intensities.gaussian(sigma)
    middle = len(weights) // 2
    np.testing.assert_allclose(weights, weights[::-1])
    assert abs(weights.sum() - 1) < 1e-3
    assert abs((weights * (np.arange(len(weights)) - middle) ** 2).sum() - (sigma**2 + 1 / 12)) < 0.02


def test_a_lower_resolution_does_not_move_the_image():
    """The centre of a ball stays where it was; with torch's plain "nearest" it would move by 0.7 voxels."""
    place = torch.from_numpy(np.indices((40, 40, 40)).astype(np.float32))
    ball = torch.exp(-((place - 19.5) ** 2).sum(0) / 50)
    lower = intensities.lower_resolution(ball, 0.7)
    centre = (place * lower).sum((1, 2, 3)) / lower.sum()
    assert (centre - 19.5).abs().max() < 0.1


@pytest.mark.parametrize("change", [intensities.gamma, intensities.inverse_gamma, intensities.scale_in_range])
def test_an_image_of_air_stays_air(change):
    air = torch.full((4, 4, 4), -3.08)
    torch.testing.assert_close(change(air, 1.2), air)
