"""One training step of the paper's network on a CPU, with one synthetic case.

The paper's batch is four patches of 224 x 224 x 64. One patch alone needed 10.2 GB and 200 s of CPU time (torch 2.13,
float32, two busy cores), so this test trains with one volume and one patch per step, 128 x 128 x 64;
everything else is the preset.
"""

from __future__ import annotations

import resource
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_hospital import write_nifti, write_site

from fedpartial import presets
from fedpartial.methods.condistfl import ConDistFL
from fedpartial.networks.build import build_network
from fedpartial.networks.canonical import canonical_state
from fedpartial.presets import ABDOMEN_PAPER
from fedpartial.training.plan import Plan
from fedpartial.training.site_session import SiteSession

ONE_PATCH = replace(
    ABDOMEN_PAPER, name="abdomen_one_patch", volumes_per_batch=1, patches_per_volume=1, patch=(128, 128, 64)
)
SHAPE = (134, 134, 70)
MEMORY_LIMIT_GB = 5


def write_abdomen(root) -> dict:
    """Soft tissue with noise, an ellipsoid of liver and a ball of tumour in it, on the preset's own grid."""
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij"))
    centre = np.array([0.3, 0.0, 0.1])[:, None, None, None]
    distance = np.linalg.norm((grid - centre) / np.array([0.4, 0.5, 0.6])[:, None, None, None], axis=0)
    label = (distance < 1).astype(np.uint8)
    label[distance < 0.3] = 2
    hu = np.random.default_rng(0).normal(0, 12, SHAPE) + np.array([40.0, 110.0, 70.0])[label]
    affine = np.diag([*ONE_PATCH.spacing_mm, 1.0])
    write_nifti(root / "a.nii.gz", hu.astype(np.int16), affine)
    write_nifti(root / "a_label.nii.gz", label, affine)
    return {"training": [{"image": "a.nii.gz", "label": "a_label.nii.gz"}]}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_papers_network_takes_a_step(tmp_path, monkeypatch):
    monkeypatch.setitem(presets.PRESETS, ONE_PATCH.name, ONE_PATCH)
    site = replace(write_site(tmp_path / "data", write_abdomen(tmp_path / "data")), device="cpu")
    plan = Plan(job="abdomen", preset=ONE_PATCH.name, num_rounds=2, local_steps=1)
    session = SiteSession(site=site, plan=plan, method=ConDistFL(), state_dir=tmp_path / "state")
    assert session.cases["training"][0].image.shape == SHAPE
    weights = canonical_state(build_network(ONE_PATCH, seed=0))

    result = session.train(weights, 0, lambda: False)

    assert len(result.update) == 79
    assert sum(tensor.numel() for tensor in result.update.values()) == 31_166_016
    assert all(torch.isfinite(tensor).all() for tensor in result.update.values())
    assert not [name for name, tensor in result.update.items() if not tensor.any()]
    assert 0.5 < result.metrics["loss"] < 6, "Dice and cross entropy of a network that knows nothing"
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    print(f"\none patch: {result.metrics['seconds']:.0f} s, peak memory {peak_gb:.1f} GB")
    assert peak_gb < MEMORY_LIMIT_GB
