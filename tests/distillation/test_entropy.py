"""How sure a map is, by the numbers of the specification and by what selection needs."""

import json
from pathlib import Path

import numpy as np
import pytest

from fedpartial.distillation import entropy
from fedpartial.distillation.entropy import SelectionRule, measure
from fedpartial.errors import ConfigError

VECTORS = json.loads((Path(__file__).parents[1] / "vectors.json").read_text())["entropy"]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: str(vector["p"][0]))
@pytest.mark.parametrize("form", ["one_sided", "binary"])
def test_entropy_agrees_with_the_specification(vector, form):
    p = np.array(vector["p"])
    assert measure(p).over(form, "all") == pytest.approx(vector[form], abs=1e-12)


@pytest.mark.parametrize("form", ["one_sided", "binary"])
def test_zero_times_log_zero_is_zero(form):
    assert measure(np.array([0.0, 1.0])).over(form, "all") == 0.0
    assert measure(np.array([0.0, 0.5])).over(form, "all") > 0


def test_over_the_foreground_only_voxels_of_at_least_a_half_count():
    found = measure(np.array([[0.5, 0.9], [0.4999, 0.1]]))
    assert found.fg_voxels == 2
    assert found.over("one_sided", "predicted_fg") == pytest.approx(
        measure(np.array([0.5, 0.9])).over("one_sided", "all")
    )
    assert found.over("binary", "predicted_fg") == pytest.approx(measure(np.array([0.5, 0.9])).over("binary", "all"))


def test_an_empty_map_has_no_entropy_over_its_foreground():
    found = measure(np.full((2, 2, 2), 1e-4, dtype=np.float32))
    assert (found.fg_voxels, found.one_sided_fg, found.binary_fg) == (0, None, None)


def test_blocks_change_nothing_and_no_copy_is_larger_than_one(monkeypatch):
    p = np.random.default_rng(0).random((7, 5, 3)).astype(np.float32)
    whole = measure(p).to_dict()
    monkeypatch.setattr(entropy, "BLOCK", 4)
    sizes = [block.size for block in entropy._blocks(p)]
    assert max(sizes) == 4
    assert sum(sizes) == p.size
    assert measure(p).to_dict() == pytest.approx(whole, abs=1e-12)


@pytest.mark.parametrize(
    ("field", "value"),
    [("form", "two_sided"), ("domain", "foreground"), ("min_fg_voxels", 0), ("min_fg_voxels", 1.5)],
)
def test_a_wrong_rule_is_refused(field, value):
    with pytest.raises(ConfigError, match=field):
        SelectionRule(**{field: value})
