"""Splits: the papers' sizes, the same on every machine, patients in one split."""

from __future__ import annotations

import pytest

from fedpartial.datasets.catalogue import get_layout
from fedpartial.datasets.layout import Found, FoundCase
from fedpartial.datasets.papers import PAPER_PRESETS, PAPERS
from fedpartial.datasets.splits import assign, parse_rule, sizes_of_percent
from fedpartial.errors import ConfigError
from fedpartial.presets import PRESETS

DATA_SETS = {"kidney": "kits19", "liver": "msd-liver", "pancreas": "msd-pancreas", "spleen": "msd-spleen"}
DATA_SETS |= {"amos": "amos22", "btcv": "btcv"}


def cases_of(number: int, split: str = "training", start: int = 0) -> list[FoundCase]:
    ids = [f"case_{index}" for index in range(start, start + number)]
    return [FoundCase(id=i, image=f"{i}.nii.gz", label=f"{i}_seg.nii.gz", split=split) for i in ids]


def found_of(number: int, layout: str = "msd-spleen", **parts: int) -> Found:
    cases = cases_of(number)
    for split, size in parts.items():
        cases += cases_of(size, split, start=len(cases))
    return Found(layout=get_layout(layout), labelled=tuple(cases), unlabelled=())


def ids(found: Found, rule: str, seed: int = 0, pattern: str | None = None) -> list[list[str]]:
    return [[case.id for case in cases] for cases in assign(found, parse_rule(rule), seed, pattern)[0].values()]


@pytest.mark.parametrize(
    ("total", "sizes"), [(210, (126, 42, 42)), (131, (79, 26, 26)), (281, (169, 56, 56)), (41, (25, 8, 8))]
)
def test_the_default_gives_the_sizes_of_condistfl(total, sizes):
    assert sizes_of_percent(total, (60, 20, 20)) == sizes
    assert tuple(map(len, ids(found_of(total), "60/20/20"))) == sizes


@pytest.mark.parametrize("total", range(1, 60))
def test_percent_lose_no_case(total):
    sizes = sizes_of_percent(total, (70, 10, 20))
    assert sum(sizes) == total
    assert all(abs(size - total * part / 100) < 1 for size, part in zip(sizes, (70, 10, 20), strict=True))


@pytest.mark.parametrize(("paper", "key"), [(paper, key) for paper in PAPERS for key in PAPERS[paper]])
def test_papers_split_the_complete_data_set(paper, key):
    layout, split = get_layout(DATA_SETS[key]), PAPERS[paper][key]
    parts = {"training": 200, "validation": 100} if key == "amos" else {"training": layout.cases}
    found = found_of(parts["training"], layout.name, validation=parts.get("validation", 0))
    assert tuple(map(len, ids(found, paper))) == split.sizes
    assert sum(split.sizes) == (parts["training"] if split.part else layout.cases)


def test_every_paper_has_a_preset():
    assert set(PAPER_PRESETS) == set(PAPERS)
    assert set(PAPER_PRESETS.values()) <= set(PRESETS)


def test_the_last_by_name_validate_in_segviz():
    training, validation, testing = ids(found_of(41), "segviz")
    assert validation == sorted(f"case_{index}" for index in range(41))[-9:]
    assert len(training) == 32
    assert testing == []


def test_another_number_of_cases_is_not_the_papers():
    with pytest.raises(ConfigError, match=r"condistfl for 40 labelled cases.*41: .* 25/8/8"):
        ids(found_of(40), "condistfl")
    with pytest.raises(ConfigError, match="a data set of that paper"):
        ids(found_of(489, "kits23"), "condistfl")


def test_the_order_is_fixed_for_ever():
    """Known values: a change of the rule would give everybody another split."""
    assert ids(found_of(10), "60/20/20") == [
        ["case_1", "case_2", "case_4", "case_5", "case_8", "case_9"],
        ["case_0", "case_3"],
        ["case_6", "case_7"],
    ]
    assert ids(found_of(10), "60/20/20", seed=1) != ids(found_of(10), "60/20/20")


def test_counts_have_to_add_up():
    assert [len(part) for part in ids(found_of(30), "24,0,6")] == [24, 0, 6]
    with pytest.raises(ConfigError, match="24,0,6 for 29 labelled cases"):
        ids(found_of(29), "24,0,6")


@pytest.mark.parametrize("text", ["60/20", "60/20/21", "1,2,x", "-1,2,3", "", "condist", "50/50/0/0"])
def test_what_is_no_rule_is_refused(text):
    with pytest.raises(ConfigError, match="--split"):
        parse_rule(text)


def test_published_takes_the_data_sets_own_splits():
    found = found_of(4, "amos22", validation=2)
    unlabelled = FoundCase(id="test_1", image="t.nii.gz", label=None, split="testing")
    lost = FoundCase(id="lost", image="l.nii.gz", label=None, split="training")
    found = Found(layout=found.layout, labelled=found.labelled, unlabelled=(unlabelled, lost))
    assigned, left_out = assign(found, parse_rule("published"), 0)
    assert [len(cases) for cases in assigned.values()] == [4, 2, 1]
    assert left_out == {"images without labels": 1}
    assert ids(found, "all-testing")[2] == [f"case_{index}" for index in range(6)]


def test_a_patient_lies_in_one_split():
    cases = [FoundCase(id=f"P{n // 3:02d}_{n}", image=f"{n}.nii", label="l", split="training") for n in range(60)]
    found = Found(layout=get_layout("folders"), labelled=tuple(cases), unlabelled=())
    splits = ids(found, "60/20/20", pattern=r"^(P\d+)_")
    patients = [{case.split("_")[0] for case in part} for part in splits]
    assert sum(map(len, patients)) == 20
    assert [len(part) for part in splits] == [36, 12, 12]
    with pytest.raises(ConfigError, match="without dividing a patient"):
        ids(found, "40,10,10", pattern=r"^(P\d+)_")
    with pytest.raises(ConfigError, match="does not fit case"):
        ids(found, "60/20/20", pattern="^Q")
    with pytest.raises(ConfigError, match="a regular expression"):
        ids(found, "60/20/20", pattern="(")
    with pytest.raises(ConfigError, match="split of our own"):
        ids(found, "published", pattern="^P")
