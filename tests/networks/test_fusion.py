"""The rules that make one label map of many heads, on scores made by hand and against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedpartial.errors import ConfigError
from fedpartial.networks.assembled import assemble, build_assembled
from fedpartial.networks.fusion import Fusion, UncertaintyWeighted, read_fusion, uncertainty
from fedpartial.networks.residual_unet import ABSENT
from segviz_sites import SMALL, image, random_state

SPACE = SMALL.label_space
SCORES = torch.tensor(
    [
        [0.0, 0.0, 0.0, 0.0, 0.0],
        [2.0, -1.0, 0.5, 0.0, -0.1],  # liver
        [1.0, -2.0, 0.6, 0.0, 0.1],  # spleen
        [ABSENT] * 5,  # pancreas
        [3.0, -3.0, 0.4, 0.0, -5.0],  # kidney
    ]
).view(5, 5, 1, 1)
"""Five voxels: all heads say foreground, none, all weakly, none by a hair, one."""


def labels(**options) -> list[int]:
    return Fusion(**options).decide(SPACE)(SCORES).flatten().tolist()


def test_log_odds_take_the_most_certain_head():
    assert labels() == [4, 0, 2, 0, 2]


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ((), [1, 0, 1, 0, 2]),
        (("spleen",), [2, 0, 2, 0, 2]),
        (("pancreas", "kidney", "spleen"), [4, 0, 4, 0, 2]),
        (("liver", "spleen", "pancreas", "kidney"), [1, 0, 1, 0, 2]),
    ],
)
def test_priority_takes_the_first_class_that_is_there(order, expected):
    assert labels(rule="priority", priority=order) == expected


def test_per_head_masks_may_overlap():
    masks = Fusion(rule="per-head").decide(SPACE)(SCORES)
    assert masks.flatten(1).int().tolist() == [
        [0, 0, 0, 0, 0],
        [1, 0, 1, 0, 0],
        [1, 0, 1, 0, 1],
        [0, 0, 0, 0, 0],
        [1, 0, 1, 0, 0],
    ]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rule": "vote"}, "'vote'; expected one of log-odds"),
        ({"rule": "per-head", "priority": ("liver",)}, "none with the rule per-head"),
        ({"priority": ("liver",)}, "none with the rule log-odds"),
        ({"rule": "priority", "priority": ("liver", "liver")}, "each class once"),
        ({"rule": "priority", "priority": ("liver", "lung")}, "'lung'; expected classes out of liver, spleen"),
        ({"rule": "priority", "priority": ("liver_tumor",)}, "liver_tumor"),
        ({"rule": "uncertainty", "passes": 0}, "passes: got 0; expected a whole number from 1 on"),
        ({"rule": "uncertainty", "passes": "5"}, "passes: got '5'"),
        ({"rule": "uncertainty", "dropout": 1.0}, "dropout: got 1.0; expected a number from 0 to below 1"),
        ({"rule": "uncertainty", "seed": -1}, "seed: got -1"),
    ],
)
def test_a_wrong_option_is_one_clear_error(options, words):
    with pytest.raises(ConfigError, match=words):
        Fusion(**options).decide(SPACE)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"rule": "per-head"}, "a rule that makes one label map"),
        ({"rule": "priority", "priority": "liver"}, "a list of class names"),
        ({"rules": "priority"}, "rules"),
    ],
)
def test_a_job_takes_only_a_rule_that_makes_one_label_map(given, words):
    with pytest.raises(ConfigError, match=words):
        read_fusion(given)
    assert read_fusion({"rule": "priority", "priority": ["liver"]}) == Fusion(rule="priority", priority=("liver",))


@pytest.fixture(scope="module")
def network():
    """Three sites with a trunk each, of which two have a head for the liver."""
    sites = {"a": ["liver"], "b": ["liver", "spleen"], "c": ["kidney"]}
    states = {site: random_state(classes, seed=number) for number, (site, classes) in enumerate(sites.items())}
    return build_assembled(SMALL, assemble({}, states, {"a": 1, "b": 2, "c": 3}))


def passes_of(network, x: torch.Tensor, *, passes: int, dropout: float, seed: int) -> list[tuple[int, np.ndarray]]:
    """Channel and foreground probabilities (T, N, H, W, D) of every head, drawn as the module draws them."""
    generator, found = torch.Generator().manual_seed(seed), []
    for channel, _, head, features in network.each_head(x):
        keeps = [torch.rand(features.shape, generator=generator) >= dropout for _ in range(passes)]
        logits = torch.stack([head(features * keep / (1 - dropout)) for keep in keeps]).double().numpy()
        found.append((channel, 1 / (1 + np.exp(logits[:, :, 0] - logits[:, :, 1]))))
    return found


def test_uncertainty_is_what_section_7_says(network):
    x = image()
    generator = torch.Generator().manual_seed(5)
    module = UncertaintyWeighted(network, passes=4, dropout=0.3, generator=generator)
    found = module(x).numpy()
    heads = passes_of(network, x, passes=4, dropout=0.3, seed=5)
    background = []
    for _, p in heads:
        aleatoric = (p * (1 - p)).mean(0)
        epistemic = (p**2).mean(0) - p.mean(0) ** 2
        assert epistemic.max() > 0.001, "dropout must change something"
        background.append((1 - p).mean(0) * (1 - 2 * (aleatoric + epistemic)))
    np.testing.assert_allclose(found[:, 0], np.mean(background, axis=0), atol=1e-5)
    for channel in (1, 2, 4):
        np.testing.assert_allclose(
            found[:, channel], np.mean([p.mean(0) for c, p in heads if c == channel], axis=0), atol=1e-5
        )
    assert [channel for channel, _ in heads].count(1) == 2
    assert not found[:, 3].any()


def test_both_uncertainties_together_depend_on_the_mean_only():
    p = torch.rand(7, 2, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    parts = (p * (1 - p)).mean(0) + (p**2).mean(0) - p.mean(0) ** 2
    torch.testing.assert_close(uncertainty(p.mean(0)), parts.sum(1))


def test_the_same_seed_gives_the_same_labels(network):
    with torch.inference_mode():
        first, second, other = (
            Fusion(rule="uncertainty", passes=2, seed=seed).network(network)(image()) for seed in (1, 1, 2)
        )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


class ConstantHeads:
    """Four heads that give every voxel the same logits; the first one's probability is chosen."""

    num_channels = SPACE.num_channels

    def __init__(self, p: float):
        self.p = p

    def each_head(self, x: torch.Tensor):
        for channel, p in enumerate((self.p, 0.01, 0.01, 0.01), start=1):
            logits = torch.tensor([1 - p, p]).log().view(1, 2, 1, 1, 1).expand(len(x), 2, *x.shape[2:])
            yield channel, 1.0, lambda _, logits=logits: logits, x


@pytest.mark.parametrize(("p", "label"), [(0.95, 1), (0.7, 0)])
def test_a_class_must_exceed_the_average_background_of_all_heads(p, label):
    """Log-odds would take both for liver."""
    fusion = Fusion(rule="uncertainty", passes=1)
    found = UncertaintyWeighted(ConstantHeads(p), passes=1, dropout=0.0, generator=torch.Generator())(image())
    background = ((1 - p) * (1 - 2 * p * (1 - p)) + 3 * 0.99 * (1 - 2 * 0.99 * 0.01)) / 4
    torch.testing.assert_close(found[:, 0], torch.full_like(found[:, 0], background))
    assert (fusion.decide(SPACE)(found[0]) == label).all()


def test_the_other_rules_take_the_networks_scores_as_they_are(network):
    assert Fusion().network(network) is network
    assert Fusion(rule="per-head").network(network) is network
