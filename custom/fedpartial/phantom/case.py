"""One case of the phantom in memory."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from fedpartial.errors import ConfigError
from fedpartial.phantom.organs import paint_organs
from fedpartial.phantom.profiles import PHANTOM_SITES, PhantomSite
from fedpartial.phantom.scanner import place_patient, scan, scan_grid
from fedpartial.phantom.surroundings import paint_surroundings
from fedpartial.phantom.tissue import raw_values, tissue_channels


@dataclass(frozen=True, kw_only=True)
class PhantomCase:
    """One CT with its labels, all of shape (I, J, K).

    image: int16 HU; full_label: uint8 channels of ``presets.ABDOMEN`` for every class; label: uint8 raw values
    of the site's own classes, 0 elsewhere; affine: 4x4, voxel index -> world mm (RAS).
    """

    image: np.ndarray
    full_label: np.ndarray
    label: np.ndarray
    affine: np.ndarray


def get_site(name: str) -> PhantomSite:
    if name not in PHANTOM_SITES:
        raise ConfigError(
            where="phantom",
            field="site",
            got=name,
            expected=f"one of {', '.join(PHANTOM_SITES)}",
            remedy="Name a site of the phantom, or write a site file for your own data.",
        )
    return PHANTOM_SITES[name]


def make_case(site: str, index: int, *, seed: int = 0) -> PhantomCase:
    """Case ``index`` of a site. The same (site, index, seed) gives the same arrays on every run."""
    profile = get_site(site)
    shape, affine = case_grid(site, index, seed=seed)
    canvas = place_patient(shape, affine, _stream(site, index, seed, "pose"))
    paint_surroundings(canvas, _stream(site, index, seed, "surroundings"))
    paint_organs(canvas, _stream(site, index, seed, "organs"))
    return PhantomCase(
        image=scan(canvas, affine, profile, _stream(site, index, seed, "image")),
        full_label=tissue_channels()[canvas.tissue],
        label=raw_values(profile)[canvas.tissue],
        affine=affine,
    )


def case_grid(site: str, index: int, *, seed: int = 0) -> tuple[tuple[int, int, int], np.ndarray]:
    """Shape and affine (4x4, voxel index -> world mm) of a case, without making it."""
    return scan_grid(get_site(site), index, _stream(site, index, seed, "grid"))


def _stream(site: str, index: int, seed: int, stage: str) -> np.random.Generator:
    """One random stream per stage, so that a change to the scanner leaves the patients as they were."""
    return np.random.default_rng([seed, zlib.crc32(site.encode()), index, zlib.crc32(stage.encode())])
