"""Changes of an image's intensities, float32 (H W D) -> float32 (H W D); the input stays as it was.

They give what MONAI's transforms of the same parameters give (RandGaussianNoise, GaussianSmooth, ScaleIntensity,
ScaleIntensityFixedMean, RandSimulateLowResolution, AdjustContrast); tests compare them. MONAI's take up to six times as
long, most for the blur, which is a 3D convolution there (docs/performance.md), and seconds of import in every process.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

TRUNCATE = 4.0
"""Standard deviations after which a Gaussian ends."""
EPSILON = 1e-7
"""Keeps a patch of one intensity from dividing by 0."""


def add_noise(image: Tensor, std: float, rng: np.random.Generator) -> Tensor:
    """Plus independent Gaussian noise."""
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    return torch.from_numpy(noise).mul_(std).add_(image)


def blur(image: Tensor, sigma: Sequence[float]) -> Tensor:
    """Convolved with a Gaussian of ``sigma`` (3,) voxels, 0 outside of the image."""
    from scipy.ndimage import correlate1d

    blurred = image.numpy()
    for axis, width in enumerate(sigma):
        blurred = correlate1d(blurred, gaussian(width), axis=axis, mode="constant")
    return torch.from_numpy(blurred)


def gaussian(sigma: float) -> np.ndarray:
    """Weights (2 n + 1,) of the voxels around one: the Gaussian's integral over each, ending after TRUNCATE sigma."""
    reach = int(max(sigma * TRUNCATE, 0.5) + 0.5)
    edges = torch.arange(-reach, reach + 2, dtype=torch.float64) - 0.5
    return torch.erf(edges / (sigma * 2**0.5)).diff().numpy() / 2


def scale(image: Tensor, factor: float) -> Tensor:
    """Brightness: every intensity times ``factor``."""
    return image * factor


def scale_in_range(image: Tensor, factor: float) -> Tensor:
    """Contrast: every intensity times ``factor``, clipped to the image's own range."""
    low, high = image.aminmax()
    return (image * factor).clamp_(low, high)


def lower_resolution(image: Tensor, zoom: float) -> Tensor:
    """Nearest voxels of a grid coarser by ``zoom`` < 1, interpolated linearly back to the image's.

    Nearest by voxel centres ("nearest-exact"), as the reference has it: MONAI's default, torch's plain "nearest", moves
    the image by 0.5 to 0.9 voxels away from its label.
    """
    coarse = [max(1, round(size * zoom)) for size in image.shape]
    lower = interpolate(image[None, None], size=coarse, mode="nearest-exact")
    return interpolate(lower, size=image.shape, mode="trilinear", align_corners=False)[0, 0]


def gamma(image: Tensor, exponent: float) -> Tensor:
    """The image, mapped to 0..1 over its own range, to the power of ``exponent``, and mapped back."""
    low, high = image.aminmax()
    span = high - low
    return ((image - low) / (span + EPSILON)).pow_(exponent).mul_(span).add_(low)


def inverse_gamma(image: Tensor, exponent: float) -> Tensor:
    """``gamma`` of the negative."""
    return gamma(-image, exponent).neg_()
