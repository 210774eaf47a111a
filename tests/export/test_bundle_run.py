"""MONAI itself verifies and runs a bundle, in a folder with an awkward name, and segments as fedpartial does."""

from __future__ import annotations

import subprocess
import sys

import nibabel
import numpy as np
import pytest
from exported_networks import write_kind
from tiny_hospital import write_nifti

from fedpartial.export.bundle import bundle_parser
from fedpartial.export.exporting import EVERY, export_model
from fedpartial.export.masks import SHARE, Checked
from fedpartial.export.source import Source, quiet
from fedpartial.export.verification import Reference

OBLIQUE = np.array([[0.0, -2.9, 0.4, 20], [-2.5, 0, 0, 30], [0, 0.4, 3.7, -5], [0, 0, 0, 1]])
FILES = ("--config_file", "configs/inference.json", "--meta_file", "configs/metadata.json")


def bundle_of(kind, tmp_path):
    model = write_kind(kind, tmp_path)
    source = Source(model)
    exported = export_model(source, Reference(source), EVERY["bundle"], tmp_path / "ein Bündel")
    assert exported.problem is None
    return model, exported


def image(folder):
    folder.mkdir()
    noise = np.random.default_rng(0).normal(100, 90, (14, 17, 9)).astype(np.int16)
    return write_nifti(folder / "ct.nii.gz", noise, OBLIQUE)


def test_an_oblique_scan_gets_the_label_map_of_predict(kinds, tmp_path):
    model, exported = bundle_of("dynunet", tmp_path)
    masks = Checked(model, image(tmp_path / "images")).compare(exported)
    assert masks.num_foreground > 500
    assert masks.good


@pytest.mark.parametrize("shape", [(14, 17, 1), (14, 1, 1), (14, 17, 9)])
def test_a_label_map_is_written_with_the_axes_of_its_scan(kinds, shape, tmp_path):
    """MONAI drops last axes of length 1 unless it is told otherwise."""
    model, exported = bundle_of("dynunet", tmp_path)
    noise = np.random.default_rng(0).normal(100, 90, shape).astype(np.int16)
    scan = write_nifti(tmp_path / "slice.nii.gz", noise, OBLIQUE)
    changes = {"datalist": [str(scan)], "output_dir": str(tmp_path), "device": "$torch.device('cpu')"}
    with quiet():
        list(bundle_parser(exported.path, **changes).get_parsed_content("run"))
    found = nibabel.load(tmp_path / "slice_labels.nii.gz")
    assert (found.shape, found.get_data_dtype()) == (shape, np.uint8)
    assert (np.asanyarray(found.dataobj) != Checked(model, scan).expected).mean() < 0.01
    np.testing.assert_allclose(found.affine, OBLIQUE, atol=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["dynunet", "heads"])
def test_monai_verifies_and_runs_a_bundle(kinds, kind, tmp_path):
    pytest.importorskip("fire", reason="monai.bundle's command line needs fire")
    model, exported = bundle_of(kind, tmp_path)
    scan = image(tmp_path / "images")

    def monai(*words):
        command = [sys.executable, "-m", "monai.bundle", *words]
        done = subprocess.run(command, cwd=exported.path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]

    if kind == "dynunet":  # the metadata of both have the same fields
        monai("verify_metadata", "--meta_file", "configs/metadata.json", "--filepath", "docs/metadata_schema.json")
    monai("verify_net_in_out", "network", *FILES)
    monai("run", *FILES, "--dataset_dir", str(scan.parent), "--output_dir", str(tmp_path / "labels"))
    found, expected = nibabel.load(tmp_path / "labels" / "ct_labels.nii.gz"), Checked(model, scan).expected
    np.testing.assert_allclose(found.affine, nibabel.load(scan).affine, atol=1e-4)
    assert found.get_data_dtype() == np.uint8
    assert (np.asanyarray(found.dataobj) != expected).mean() < SHARE
