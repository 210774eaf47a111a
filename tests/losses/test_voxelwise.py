"""Focal and top-k losses, marginal: vector A, cases by hand, limits."""

import math

import pytest
import torch

from fedpartial.losses.marginal import marginal_dice_ce, merge, voxel_cross_entropy
from fedpartial.losses.voxelwise import marginal_focal, mean_of_largest


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(2, 4, 3, 2, 2, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 4, (2, 3, 2, 2), generator=generator)
    return logits, labels, torch.tensor([[0, 1, 1, 0], [0, 0, 0, 1]]).bool()


def test_vector_a(vector_a):
    merged = merge(vector_a.student, vector_a.labels, vector_a.labelled)
    cost = voxel_cross_entropy(merged)
    assert marginal_focal(merged).item() == pytest.approx(vector_a.expected["marginal_focal_gamma2"], rel=1e-12)
    for fraction, name in ((0.5, "marginal_topk_50"), (0.25, "marginal_topk_25"), (1.0, "marginal_ce")):
        assert mean_of_largest(cost, fraction).item() == pytest.approx(vector_a.expected[name], rel=1e-12)


def test_two_voxels_by_hand():
    """Classes 0, 1, 2 of which 1 is labelled; merged probabilities of the labels are 1/2 and 3/4."""
    p = torch.tensor([[0.25, 0.5, 0.25], [0.5, 0.25, 0.25]], dtype=torch.float64)
    merged = merge(p.log().T.reshape(1, 3, 2), torch.tensor([[1, 0]]), torch.tensor([[False, True, False]]))
    expected = -(0.5**3 * math.log(0.5) + 0.25**3 * math.log(0.75)) / 2
    assert marginal_focal(merged, gamma=3).item() == pytest.approx(expected, rel=1e-12)
    assert mean_of_largest(voxel_cross_entropy(merged), 0.5).item() == pytest.approx(-math.log(0.5), rel=1e-12)


def test_focal_with_gamma_0_and_top_k_of_everything_are_cross_entropy(batch):
    merged, ce = merge(*batch), marginal_dice_ce(*batch).ce.item()
    assert marginal_focal(merged, gamma=0).item() == pytest.approx(ce, rel=1e-12)
    assert mean_of_largest(voxel_cross_entropy(merged), 1.0).item() == pytest.approx(ce, rel=1e-12)


def test_top_k_counts_voxels_of_the_whole_batch_and_at_least_one(batch):
    cost = voxel_cross_entropy(merge(*batch))
    ordered = sorted(cost.flatten().tolist(), reverse=True)
    for fraction, k in ((0.01, 1), (0.25, 6), (0.3, 7)):
        assert mean_of_largest(cost, fraction).item() == pytest.approx(sum(ordered[:k]) / k, rel=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_gradcheck(batch, gamma):
    logits, labels, labelled = (tensor[..., 0] if tensor.ndim > 2 else tensor for tensor in batch)

    def both(z):
        merged = merge(z, labels, labelled)
        return marginal_focal(merged, gamma=gamma), mean_of_largest(voxel_cross_entropy(merged), 0.3)

    assert torch.autograd.gradcheck(both, logits.clone().requires_grad_())


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_extreme_logits_stay_finite(batch, dtype, gamma):
    """Right and wrong without a doubt: the slope of (1 - q)^gamma at q = 1 has no finite value for gamma below 1."""
    logits, labels, labelled = batch
    logits = (6e4 * logits.sign()).to(dtype).requires_grad_()
    merged = merge(logits, labels, labelled)
    loss = marginal_focal(merged, gamma=gamma) + mean_of_largest(voxel_cross_entropy(merged), 0.1)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()
