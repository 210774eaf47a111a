"""A made-up run of two sites and an external set, small enough to check by eye."""

from __future__ import annotations

import numpy as np
import pytest

from fedpartial.evaluation.metrics import CaseScores, score_case
from fedpartial.evaluation.overlays import overlay_picture
from fedpartial.evaluation.report import Overlay, RunRecord
from fedpartial.evaluation.summary import summarise
from fedpartial.presets import ABDOMEN

SITE_CLASSES = {"north": ("liver", "liver_tumor"), "south": ("spleen",)}


@pytest.fixture(scope="session")
def reference() -> np.ndarray:
    """Channels (16, 14, 12): a liver with a tumour on the low side of axis 0, a spleen on the high side."""
    volume = np.zeros((16, 14, 12), np.uint8)
    volume[1:8, 3:11, 2:10] = ABDOMEN.index("liver")
    volume[3:6, 5:8, 4:7] = ABDOMEN.index("liver_tumor")
    volume[11:14, 4:8, 5:9] = ABDOMEN.index("spleen")
    return volume


@pytest.fixture(scope="session")
def image(reference: np.ndarray) -> np.ndarray:
    """HU (16, 14, 12), with air at the front so that no two directions look alike."""
    volume = np.where(reference > 0, 100.0, 40.0) + np.arange(reference.size).reshape(reference.shape) / reference.size
    volume[:, :2] = -1000.0
    return volume


def scores(reference: np.ndarray, names: tuple[str, ...], *, shift: int) -> CaseScores:
    labelled = ABDOMEN.labelled_mask(names)
    partial = np.where(labelled[reference], reference, 0).astype(np.uint8)
    prediction = np.roll(reference, shift, axis=1)
    return score_case(prediction, partial, spacing_mm=(2.0, 1.0, 3.0), space=ABDOMEN, labelled=labelled)


@pytest.fixture(scope="session")
def cases(reference: np.ndarray) -> dict[str, list[CaseScores]]:
    everything = ABDOMEN.names(ABDOMEN.labelled_mask(ABDOMEN.classes))
    found = {"external": [scores(reference, everything, shift=shift) for shift in (0, 1, 2)]}
    return found | {site: [scores(reference, c, shift=s) for s in (0, 1)] for site, c in SITE_CLASSES.items()}


@pytest.fixture(scope="session")
def record_parts(cases: dict, reference: np.ndarray, image: np.ndarray) -> dict:
    """Arguments of a full RunRecord."""
    return {
        "job": "fedavg",
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "seed": 7,
        "preset": "phantom",
        "versions": {"fedpartial": "0.1.0", "nvflare": "2.9.0"},
        "empty_class_policy": "exclude",
        "device": dict.fromkeys(SITE_CLASSES, "cpu"),
        "precision": dict.fromkeys(SITE_CLASSES, "float32"),
        "sites": {site: summarise(cases[site], ABDOMEN) for site in SITE_CLASSES},
        "external": summarise(cases["external"], ABDOMEN),
        "rounds": [_round(r) for r in range(3)],
        "exchange": {"messages": 12, "bytes_up": 6_000_000, "parts": {"trunk": 99}, "filters": ["none"]},
        "phases": {"train": 61.0, "report": 1.5},
        "cross_site": {"global": {"north": {"liver": 0.9, "liver_tumor": None}, "south": {"spleen": 0.8}}},
        "selected_model": {"name": "best global", "round": 2, "val_dice": 0.65},
        "cases": cases,
        "notes": ["A made-up run."],
        "overlays": [_overlay(image, reference)],
    }


@pytest.fixture(scope="session")
def record(record_parts: dict) -> RunRecord:
    return RunRecord(**record_parts)


def _round(number: int) -> dict:
    site = {"loss": 1.0 / (1 + number), "val_dice": 0.45 + 0.1 * number, "seconds": 10.0}
    sites = {name: site | {"bytes_up": 1_000_000, "bytes_down": 1_000_000} for name in SITE_CLASSES}
    total = {"seconds": 20.0, "bytes_up": 2_000_000, "bytes_down": 2_000_000, "val_dice": site["val_dice"]}
    return {"round": number, **total, "sites": sites}


def _overlay(image: np.ndarray, reference: np.ndarray) -> Overlay:
    affine = np.diag([2.0, 1.0, 3.0, 1.0])
    png = overlay_picture(image, reference, reference, affine=affine, space=ABDOMEN, title="External case 1")
    return Overlay(title="External case 1", site="external", dice=1.0, png=png)
