"""What each phantom site annotates, how many cases it has, and how its scanner and protocol look."""

from __future__ import annotations

from dataclasses import dataclass, field

from fedpartial.presets import ABDOMEN


@dataclass(frozen=True, kw_only=True)
class PhantomSite:
    """One hospital of the phantom.

    labels: raw label value -> class name; a lesion that is not named is drawn as a part of its organ, and a site
    without labels has images only. phase: HU added to a tissue (lower-case name in ``tissue.HU``) by this site's
    contrast timing. noise_hu: standard deviation of the noise in the image; blur_mm: standard deviation of the
    reconstruction kernel; spacing_mm: typical voxel size in the slice and between slices.
    """

    labels: dict[int, str]
    training: int = 16
    validation: int = 3
    testing: int = 3
    phase: dict[str, float] = field(default_factory=dict)
    noise_hu: float = 11.0
    blur_mm: float = 1.5
    spacing_mm: tuple[float, float] = (3.0, 5.0)

    @property
    def num_cases(self) -> int:
        return self.training + self.validation + self.testing


PHANTOM_SITES: dict[str, PhantomSite] = {
    "kidney": PhantomSite(
        labels={1: "kidney", 2: "kidney_tumor"},
        phase={"kidney": 20.0, "aorta": 30.0, "cava": -10.0, "liver": -10.0, "pancreas": 6.0, "heart": 20.0},
        noise_hu=10.0,
        blur_mm=1.3,
        spacing_mm=(2.8, 4.5),
    ),
    "liver": PhantomSite(
        labels={1: "liver", 2: "liver_tumor"},
        phase={"liver": 8.0, "kidney": -12.0, "aorta": -8.0, "cava": 8.0},
        noise_hu=12.0,
        blur_mm=1.7,
        spacing_mm=(3.0, 5.0),
    ),
    "pancreas": PhantomSite(
        labels={1: "pancreas", 2: "pancreas_tumor"},
        phase={"pancreas": 6.0, "spleen": 6.0, "aorta": 12.0, "kidney": 8.0},
        noise_hu=8.5,
        blur_mm=1.2,
        spacing_mm=(2.7, 4.3),
    ),
    "spleen": PhantomSite(
        labels={1: "spleen"},
        phase={"spleen": -6.0, "liver": 4.0, "kidney": -8.0, "pancreas": -3.0},
        noise_hu=14.0,
        blur_mm=2.0,
        spacing_mm=(3.3, 5.6),
    ),
    "full": PhantomSite(
        labels=dict(enumerate(ABDOMEN.classes, start=1)),
        training=8,
        phase={"liver": 3.0, "spleen": 4.0, "pancreas": 3.0, "kidney": -4.0, "aorta": -5.0, "cava": 4.0},
        noise_hu=9.5,
        blur_mm=1.45,
        spacing_mm=(2.9, 4.6),
    ),
    "amos": PhantomSite(
        labels={1: "liver", 2: "spleen", 3: "pancreas", 4: "kidney", 5: "aorta", 6: "vena_cava"},
        phase={"liver": -4.0, "spleen": 3.0, "pancreas": -2.0, "kidney": 8.0, "aorta": 6.0, "cava": 3.0},
        noise_hu=11.5,
        blur_mm=1.6,
        spacing_mm=(2.9, 5.0),
    ),
    "public": PhantomSite(
        labels={},
        training=12,
        validation=0,
        testing=0,
        phase={"liver": 2.0, "spleen": -2.0, "kidney": -3.0, "aorta": 3.0},
        noise_hu=11.0,
        blur_mm=1.5,
        spacing_mm=(3.0, 4.8),
    ),
    "external": PhantomSite(
        labels=dict(enumerate(ABDOMEN.classes, start=1)),
        training=0,
        validation=0,
        testing=6,
        phase={"liver": -3.0, "kidney": 5.0, "aorta": 5.0},
        noise_hu=12.5,
        blur_mm=1.6,
        spacing_mm=(3.1, 4.8),
    ),
}
"""The four partially labelled sites of ConDistFL, the fully labelled one of FL-PSMOS (METHODS 3.4), the one of MMDS
that draws organs and vessels and no lesions (4.4), images without labels for distillation (4.3), and an external set,
labelled as far as ConDistFL goes, that only tests."""

PHANTOM_POOLS = {
    "central": ("kidney", "liver", "pancreas", "spleen"),
    "psmos_central": ("full", "kidney", "liver", "pancreas", "spleen"),
    "mmds_central": ("amos", "kidney", "liver", "pancreas", "spleen"),
}
"""Sites whose data lies in one place, for centralised training."""
