"""What a phantom is made of: tissues and their HU in the portal-venous phase."""

from __future__ import annotations

from enum import IntEnum, auto

import numpy as np

from fedpartial.phantom.profiles import PhantomSite
from fedpartial.presets import ABDOMEN


class Tissue(IntEnum):
    """The content of a voxel; classes of ``presets.ABDOMEN`` have their name in capitals."""

    AIR = 0
    SUBCUTANEOUS = auto()
    FAT = auto()
    MUSCLE = auto()
    LUNG = auto()
    BONE = auto()
    MARROW = auto()
    DISC = auto()
    CANAL = auto()
    HEART = auto()
    AORTA = auto()
    CAVA = auto()
    BOWEL_WALL = auto()
    FLUID = auto()
    STOOL = auto()
    GAS = auto()
    HEPATIC_VEIN = auto()
    LIVER = auto()
    LIVER_TUMOR = auto()
    SPLEEN = auto()
    PANCREAS = auto()
    PANCREAS_TUMOR = auto()
    KIDNEY = auto()
    KIDNEY_TUMOR = auto()


T = Tissue
CAVITY = (T.FAT, T.LUNG, T.HEART, T.BOWEL_WALL, T.FLUID, T.STOOL, T.GAS)
"""What an organ may displace: the contents of chest and abdomen, never the wall, the spine or great vessels."""

HU: dict[str, float] = {
    "air": -1000, "subcutaneous": -105, "fat": -98, "muscle": 58, "lung": -820, "bone": 420, "marrow": 230,
    "disc": 85, "canal": 30, "heart": 130, "aorta": 160, "cava": 142, "bowel_wall": 82, "fluid": 20, "stool": 45,
    "gas": -850, "hepatic_vein": 148, "liver": 110, "liver_tumor": 54, "spleen": 126, "pancreas": 98,
    "pancreas_tumor": 46, "kidney": 180, "kidney_tumor": 82,
}  # fmt: skip
"""HU of every tissue before the site's phase and the patient's own variation."""
VARIATION_HU = 6.0
TUMOR_CONTRAST_HU = 56.0
"""A tumour is at least this much darker than its organ; the kernel's blur takes up to 15 HU of it away."""
TEXTURE_HU: dict[str, float] = {"air": 0, "stool": 22, "fat": 7, "marrow": 18, "lung": 25, "kidney_tumor": 7}
DEFAULT_TEXTURE_HU = 4.5


def tissue_hu(site: PhantomSite, rng: np.random.Generator) -> np.ndarray:
    """HU of every tissue for one patient of a site, float32 (number of tissues,)."""
    hu = {name: value + site.phase.get(name, 0.0) + rng.uniform(-1, 1) * VARIATION_HU for name, value in HU.items()}
    hu["air"] = HU["air"]
    for organ in ABDOMEN.organs:
        for lesion in organ.lesions:
            hu[lesion] = min(hu[lesion], hu[organ.name] - TUMOR_CONTRAST_HU)
    return np.array([hu[tissue.name.lower()] for tissue in Tissue], dtype=np.float32)


def tissue_texture() -> np.ndarray:
    """Standard deviation in HU of the smooth texture of every tissue, float32 (number of tissues,)."""
    return np.array([TEXTURE_HU.get(t.name.lower(), DEFAULT_TEXTURE_HU) for t in Tissue], dtype=np.float32)


CLASS_NAMES = {T.HEPATIC_VEIN: "liver", T.CAVA: "vena_cava"}
"""Where a class is not called as its tissue. Vessels inside the liver count as liver, as radiologists draw it."""


def tissue_classes() -> list[str]:
    """The class that every tissue would be drawn as."""
    return [CLASS_NAMES.get(tissue, tissue.name.lower()) for tissue in Tissue]


def tissue_channels() -> np.ndarray:
    """Channel of ``presets.ABDOMEN`` of every tissue, uint8 (number of tissues,)."""
    return np.array([ABDOMEN.index(n) if n in ABDOMEN.classes else 0 for n in tissue_classes()], dtype=np.uint8)


def raw_values(site: PhantomSite) -> np.ndarray:
    """Raw label value of every tissue at a site, uint8 (number of tissues,)."""
    raw = {name: value for value, name in site.labels.items()}
    organs = {lesion: organ.name for organ in ABDOMEN.organs for lesion in organ.lesions}
    return np.array([raw.get(n, raw.get(organs.get(n), 0)) for n in tissue_classes()], dtype=np.uint8)
