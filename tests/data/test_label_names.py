"""A label map carries its own meaning, and one of somebody else none."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Extension

from fedpartial.data.label_names import embed_names, read_facts, read_names


def saved(path, *contents: bytes, names=None):
    image = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4))
    for content in contents:
        image.header.extensions.append(Nifti1Extension("comment", content))
    if names:
        embed_names(image, names, model="ä.safetensors")
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
def test_names_and_facts_survive_a_file_beside_other_extensions(tmp_path, ending):
    path = saved(tmp_path / f"l.{ending}", b"<xml/>", b"[1]", names={1: "liver", 12: "leber größe"})
    assert read_names(path) == {1: "liver", 12: "leber größe"}
    assert read_facts(path)["model"] == "ä.safetensors"


@pytest.mark.parametrize(
    "content",
    [
        b"free text",
        b"\xff\xfe",
        b'{"x": {}}',
        b'{"fedpartial": 3}',
        b'{"fedpartial": {"model": "m"}}',
        b'{"fedpartial": {"labels": {"one": "liver"}}}',
    ],
)
def test_a_label_map_of_somebody_else_has_none(tmp_path, content):
    assert read_names(saved(tmp_path / "l.nii", content)) is None
