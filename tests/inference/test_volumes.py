"""Millilitres by the determinant of the affine, and the table of a folder."""

from __future__ import annotations

import numpy as np

from fedpartial.inference.volumes import save_volumes, volumes_ml

SHEARED = np.array([[0, -2.0, 0, 5], [2.0, 0, 3.0, 5], [0, 0, 5.0, 5], [0, 0, 0, 1]])
"""Rotated, and sheared like a tilted gantry: 20 mm3 a voxel."""


def test_volumes_of_a_label_map_and_of_masks_that_overlap():
    label = np.zeros((10, 10, 10), dtype=np.uint8)
    label[:5] = 1
    label[0, 0, :3] = 7
    assert volumes_ml(label, SHEARED, {1: "liver", 2: "spleen"}) == {"liver": 9.94, "spleen": 0.0}
    masks = np.zeros((3, 10, 10, 10), dtype=np.uint8)
    masks[1, :5], masks[2, 4:] = 1, 1
    assert volumes_ml(masks, SHEARED, {1: "liver", 2: "spleen"}) == {"liver": 10.0, "spleen": 12.0}


def test_a_case_without_a_class_has_an_empty_cell(tmp_path):
    rows = {"a, 1": {"liver": 1.5}, "b": {"spleen": 0.0}}
    save_volumes(tmp_path / "volumes.csv", rows, ("liver",))
    lines = (tmp_path / "volumes.csv").read_text(encoding="utf-8").splitlines()
    assert lines == ["name,liver_ml,spleen_ml", '"a, 1",1.5,', "b,,0.0"]
