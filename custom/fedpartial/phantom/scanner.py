"""The scanner: the voxel grid of a case, the patient's pose and deformation on it, and tissue turned into HU."""

from __future__ import annotations

import numpy as np

from fedpartial.phantom.profiles import PhantomSite
from fedpartial.phantom.shapes import Canvas, rotation
from fedpartial.phantom.tissue import tissue_hu, tissue_texture

ORIENTATIONS = ("LAS", "RAS", "LPS", "ARS", "RAI", "SPL")
"""How hospitals store volumes: the usual codes, reversed slices and permuted axes."""
FIELD_MM = (320.0, 240.0)
OBLIQUE_RATE = 0.15
TEXTURE_MM = 6.0


def scan_grid(site: PhantomSite, index: int, rng: np.random.Generator) -> tuple[tuple[int, int, int], np.ndarray]:
    """Shape and affine (4x4, voxel -> world mm RAS) of a case; orientation cycles with the index."""
    in_plane = np.clip(site.spacing_mm[0] + rng.uniform(-0.3, 0.3), 2.5, 3.5)
    spacing = np.array([in_plane, in_plane, np.clip(site.spacing_mm[1] + rng.uniform(-0.5, 0.5), 4.0, 6.0)])
    extent = np.array([*FIELD_MM, rng.uniform(200, 240)])
    axes, signs = zip(*(_world_axis(letter) for letter in ORIENTATIONS[index % len(ORIENTATIONS)]), strict=True)
    linear = np.zeros((3, 3))
    linear[list(axes), range(3)] = spacing[list(axes)] * signs
    if rng.random() < OBLIQUE_RATE:
        linear = rotation(np.array([0, 0, np.radians(rng.choice([-1, 1]) * rng.uniform(4, 6))])) @ linear
    shape = np.round(extent / spacing).astype(int)[list(axes)]
    affine = np.eye(4)
    affine[:3, :3] = linear
    affine[:3, 3] = isocentre(rng) - linear @ ((shape - 1) / 2)
    return tuple(int(n) for n in shape), affine.astype(np.float32).astype(np.float64)


def isocentre(rng: np.random.Generator) -> np.ndarray:
    """World mm of the middle of the field: patients lie off-centre and tables stand anywhere."""
    return rng.uniform((-12, -60, -400), (12, 20, 200))


def _world_axis(letter: str) -> tuple[int, int]:
    axis = next(i for i, pair in enumerate(("RL", "AP", "SI")) if letter in pair)
    return axis, 1 if letter in "RAS" else -1


def place_patient(shape: tuple[int, int, int], affine: np.ndarray, rng: np.random.Generator) -> Canvas:
    """An empty canvas whose patient coordinates are posed (shift, turn, size) and smoothly deformed.

    The pose is relative to the middle of the field, so it does not depend on how the axes are stored.
    """
    middle = affine[:3, :3] @ ((np.array(shape) - 1) / 2) + affine[:3, 3]
    turn = np.diag(1 / rng.uniform(0.93, 1.04, 3)) @ rotation(np.radians(rng.uniform(-4, 4, 3) * (0.4, 0.4, 1)))
    to_patient = np.eye(4)
    to_patient[:3, :3] = turn @ affine[:3, :3]
    to_patient[:3, 3] = turn @ (affine[:3, 3] - middle + rng.uniform(-6, 6, 3))
    points = _axes_sum(shape, to_patient)
    slack = _deform(points, shape, to_patient, rng)
    return Canvas(points, np.linalg.inv(to_patient), slack)


def _axes_sum(shape: tuple[int, int, int], affine: np.ndarray) -> np.ndarray:
    """affine @ voxel index for all voxels, float32 (3, I, J, K)."""
    i, j, k = (_along(np.outer(affine[:3, a], np.arange(n)), a) for a, n in enumerate(shape))
    return (i + j + k + affine[:3, 3].reshape(3, 1, 1, 1)).astype(np.float32)


def _deform(points: np.ndarray, shape: tuple, affine: np.ndarray, rng: np.random.Generator) -> float:
    """Add slow sine waves to the patient coordinates; returns the largest possible shift in mm."""
    total = 0.0
    for _ in range(6):
        push = rng.normal(0, 1.6, 3)
        points += push.astype(np.float32).reshape(3, 1, 1, 1) * _wave(shape, affine, rng, 110, 220)
        total += float(np.abs(push).max())
    return total


def _wave(shape: tuple, affine: np.ndarray, rng: np.random.Generator, low: float, high: float) -> np.ndarray:
    """A plane wave of random direction, phase and wavelength (mm), float32 (I, J, K).

    exp(i k.x) is a product over the voxel axes of any affine, so three vectors replace a sine per voxel.
    """
    vector = rng.normal(size=3)
    vector *= 2 * np.pi / (np.linalg.norm(vector) * rng.uniform(low, high))
    phase = rng.uniform(0, 2 * np.pi) + vector @ affine[:3, 3]
    rates = vector @ affine[:3, :3]
    i, j, k = (_along(np.exp(1j * rates[a] * np.arange(n))[None], a)[0] for a, n in enumerate(shape))
    plane = (np.exp(1j * phase) * i * j).astype(np.complex64)
    k = k.astype(np.complex64)
    return plane.imag * k.real + plane.real * k.imag


def _along(rows: np.ndarray, axis: int) -> np.ndarray:
    """Rows (m, n) laid along one voxel axis: (m, n, 1, 1), (m, 1, n, 1) or (m, 1, 1, n)."""
    shape = [rows.shape[0], 1, 1, 1]
    shape[axis + 1] = rows.shape[1]
    return rows.reshape(shape)


def scan(canvas: Canvas, affine: np.ndarray, site: PhantomSite, rng: np.random.Generator) -> np.ndarray:
    """The image int16 (I, J, K) in HU of a painted canvas: tissue and texture, blurred by the kernel, plus noise."""
    voxel_mm = np.linalg.norm(affine[:3, :3], axis=0)
    shape = canvas.tissue.shape
    image = tissue_hu(site, rng)[canvas.tissue]
    image += tissue_texture()[canvas.tissue] * _smooth_noise(shape, TEXTURE_MM / voxel_mm, rng)
    image = _blurred(image, site.blur_mm / voxel_mm)
    # Noise of a real kernel is finer than its blur, and still correlated between neighbours.
    image += np.float32(site.noise_hu) * _smooth_noise(shape, 0.5 * site.blur_mm / voxel_mm, rng)
    return np.clip(np.rint(image), -1024, 3000).astype(np.int16)


def _smooth_noise(shape: tuple[int, int, int], sigma: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise of standard deviation 1, smoothed by sigma (3,) voxels, float32."""
    noise = _blurred(rng.standard_normal(shape, dtype=np.float32), sigma)
    return noise / noise.std()


def _blurred(image: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(image, sigma, mode="nearest", truncate=2.5)
