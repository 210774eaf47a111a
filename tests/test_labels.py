"""Label arithmetic: METHODS section 0 (the label space), 1.2.3 (background groups), 1.6 (merged lesions)."""

from dataclasses import FrozenInstanceError
from itertools import product

import numpy as np
import pytest

from fedpartial.errors import ConfigError
from fedpartial.labels import BACKGROUND, MAX_RAW_VALUE, LabelSpace, Organ

WITH_LESIONS = LabelSpace(
    organs=(
        Organ(name="liver", lesions=("liver_tumor",)),
        Organ(name="spleen"),
        Organ(name="pancreas", lesions=("pancreas_tumor",)),
        Organ(name="kidney", lesions=("kidney_tumor",)),
    )
)
MERGED = LabelSpace(organs=WITH_LESIONS.organs, merge_lesions=True)
MANY_LESIONS = LabelSpace(
    organs=(Organ(name="kidney", lesions=("kidney_tumor", "kidney_cyst")), Organ(name="spleen"), Organ(name="aorta"))
)
SIDED = LabelSpace(
    organs=(
        Organ(name="liver", lesions=("liver_tumor",)),
        Organ(name="kidney", lesions=("kidney_tumor",), sides=True),
        Organ(name="spleen"),
    ),
    merge_lesions=True,
)
SPACES = {
    "with lesions": WITH_LESIONS,
    "merged": MERGED,
    "two lesions in one organ": MANY_LESIONS,
    "two sides": SIDED,
}


@pytest.fixture(params=SPACES.values(), ids=SPACES.keys())
def space(request):
    return request.param


def refused(call, *, where="label space", field="labels"):
    """The ConfigError that ``call()`` raises, after checking that its message tells all five parts."""
    with pytest.raises(ConfigError) as caught:
        call()
    error = caught.value
    assert (error.where, error.field) == (where, field)
    for part in (where, field, repr(error.got), error.expected, error.remedy):
        assert part
        assert part in str(error)
    return error


# --- the space ---------------------------------------------------------------------------------


def test_channels_are_those_of_condistfl():
    assert WITH_LESIONS.channels == (
        "background",
        "liver",
        "liver_tumor",
        "spleen",
        "pancreas",
        "pancreas_tumor",
        "kidney",
        "kidney_tumor",
    )
    assert WITH_LESIONS.num_channels == 8
    assert WITH_LESIONS.lesions == ("liver_tumor", "pancreas_tumor", "kidney_tumor")


def test_merged_channels_are_those_of_condistfl_union():
    assert MERGED.channels == ("background", "liver", "spleen", "pancreas", "kidney")
    assert MERGED.num_channels == 5
    assert MERGED.lesions == ()


def test_channel_zero_is_background_and_class_i_has_channel_i_plus_one(space):
    assert space.channels == (BACKGROUND, *space.classes)
    assert BACKGROUND not in space.classes
    for i, name in enumerate(space.classes):
        assert space.index(name) == i + 1
    assert space.index(BACKGROUND) == 0


def test_organ_groups_partition_the_foreground(space):
    members = [channel for group in space.organ_groups for channel in group]
    assert members == list(range(1, space.num_channels))
    assert len(space.organ_groups) == sum(len(organ.parts) for organ in space.organs)


def test_organ_groups_hold_an_organ_with_its_lesions():
    assert WITH_LESIONS.organ_groups == ((1, 2), (3,), (4, 5), (6, 7))
    assert MERGED.organ_groups == ((1,), (2,), (3,), (4,))
    assert MANY_LESIONS.organ_groups == ((1, 2, 3), (4,), (5,))


def test_a_space_cannot_be_changed_and_spaces_of_equal_organs_are_equal():
    with pytest.raises(FrozenInstanceError):
        WITH_LESIONS.merge_lesions = True
    assert LabelSpace(organs=WITH_LESIONS.organs) == WITH_LESIONS
    assert WITH_LESIONS != MERGED


@pytest.mark.parametrize("merge_lesions", [False, True])
@pytest.mark.parametrize(
    ("organs", "twice"),
    [
        ((Organ(name="liver"), Organ(name="liver")), "liver"),
        ((Organ(name="liver", lesions=("tumor",)), Organ(name="kidney", lesions=("tumor",))), "tumor"),
        ((Organ(name="liver", lesions=("tumor", "tumor")),), "tumor"),
        ((Organ(name="liver", lesions=("liver",)),), "liver"),
        ((Organ(name="liver", lesions=("spleen",)), Organ(name="spleen")), "spleen"),
        ((Organ(name="liver"), Organ(name="kidney", lesions=("liver",))), "liver"),
        ((Organ(name="background"),), "background"),
        ((Organ(name="liver", lesions=("background",)),), "background"),
    ],
)
def test_overlapping_groups_are_refused(organs, twice, merge_lesions):
    error = refused(lambda: LabelSpace(organs=organs, merge_lesions=merge_lesions), field="organs")
    assert error.got == twice


def test_a_space_without_organs_is_refused():
    refused(lambda: LabelSpace(organs=()), field="organs")


# --- names and masks ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Liver", "livr", "", "0"])
def test_an_unknown_name_is_refused_with_the_known_ones(name):
    error = refused(lambda: WITH_LESIONS.index(name, where="site-1.json"), where="site-1.json")
    assert error.got == name
    for known in WITH_LESIONS.channels:
        assert known in error.expected


def test_a_merged_lesion_is_its_organ_but_still_a_known_name():
    for organ in MERGED.organs:
        for lesion in organ.lesions:
            assert MERGED.index(lesion) == MERGED.index(organ.name)
            assert lesion not in MERGED.channels
    error = refused(lambda: MERGED.index("appendix"))
    assert "liver_tumor" in error.expected


def test_labelled_mask_marks_the_named_channels_only():
    mask = WITH_LESIONS.labelled_mask(["kidney_tumor", "liver"])
    assert mask.dtype == np.bool_
    assert mask.tolist() == [False, True, False, False, False, False, False, True]


def test_background_is_never_labelled(space):
    everything = space.labelled_mask(space.channels)
    assert not everything[0]
    assert everything[1:].all()


def test_labelled_mask_of_a_merged_lesion_is_its_organ():
    assert MERGED.names(MERGED.labelled_mask(["pancreas_tumor"])) == ("pancreas",)
    both = MERGED.labelled_mask(["pancreas", "pancreas_tumor"])
    np.testing.assert_array_equal(both, MERGED.labelled_mask(["pancreas"]))


def test_labelled_mask_takes_any_iterable_once():
    np.testing.assert_array_equal(
        WITH_LESIONS.labelled_mask(name for name in ("liver", "spleen", "liver")),
        WITH_LESIONS.labelled_mask(["spleen", "liver"]),
    )


def test_labelled_mask_refuses_unknown_names():
    error = refused(lambda: WITH_LESIONS.labelled_mask(["liver", "lung"], where="site-1.json"), where="site-1.json")
    assert error.got == "lung"


@pytest.mark.parametrize("names", [[], ["background"], ["background", "background"]])
def test_a_site_that_labels_nothing_is_refused(names, space):
    error = refused(lambda: space.labelled_mask(names, where="site-1.json"), where="site-1.json")
    for name in space.classes:
        assert name in error.remedy


def test_names_are_the_way_back_from_a_mask(space):
    checked = 0
    for chosen in subsets(space):
        names = tuple(name for name, taken in zip(space.channels, chosen, strict=True) if taken)
        assert space.names(np.array(chosen)) == names
        if names:
            np.testing.assert_array_equal(space.labelled_mask(reversed(names)), chosen)
        checked += 1
    assert checked == 2 ** len(space.classes)


def test_names_refuse_a_mask_of_another_space():
    with pytest.raises(ValueError, match=r"shorter|longer"):
        WITH_LESIONS.names(MERGED.labelled_mask(["liver"]))


# --- background groups -------------------------------------------------------------------------


def subsets(space):
    """Every set of labelled classes, as a tuple over channels; background is never in it."""
    return [(False, *foreground) for foreground in product([False, True], repeat=len(space.classes))]


def test_background_groups_partition_exactly_the_unlabelled_channels(space):
    checked = 0
    for labelled in subsets(space):
        groups = space.background_groups(labelled)
        members = [channel for group in groups for channel in group]
        assert len(members) == len(set(members)), "groups overlap"
        assert set(members) == {c for c, taken in enumerate(labelled) if not taken}
        assert groups[0] == (0,)
        assert all(groups), "no group is empty"
        checked += 1
    assert checked == 2 ** len(space.classes)


def test_background_groups_never_mix_organs(space):
    for labelled in subsets(space):
        groups = space.background_groups(labelled)[1:]
        organs = [{m for m, organ in enumerate(space.organ_groups) if set(organ) & set(group)} for group in groups]
        assert all(len(touched) == 1 for touched in organs)
        touched = [m for (m,) in organs]
        assert touched == sorted(set(touched)), "one group per organ, in the order of the organs"


@pytest.mark.parametrize(
    ("labelled", "groups"),
    [
        (("kidney", "kidney_tumor"), ((0,), (1, 2), (3,), (4, 5))),
        (("liver", "liver_tumor"), ((0,), (3,), (4, 5), (6, 7))),
        (("spleen",), ((0,), (1, 2), (4, 5), (6, 7))),
        (("pancreas", "pancreas_tumor"), ((0,), (1, 2), (3,), (6, 7))),
        (("liver",), ((0,), (2,), (3,), (4, 5), (6, 7))),
        (WITH_LESIONS.classes, ((0,),)),
    ],
)
def test_background_groups_of_the_condistfl_sites(labelled, groups):
    mask = WITH_LESIONS.labelled_mask(labelled)
    assert WITH_LESIONS.background_groups(mask) == groups
    assert WITH_LESIONS.background_groups(mask.tolist()) == groups


def test_group_matrix_puts_every_channel_into_exactly_one_group(space):
    matrix = space.group_matrix()
    assert matrix.dtype == np.bool_
    assert matrix.shape == (1 + len(space.organ_groups), space.num_channels)
    assert (matrix.sum(axis=0) == 1).all()
    assert np.flatnonzero(matrix[0]).tolist() == [0]


def test_group_matrix_restricted_to_the_unlabelled_gives_the_background_groups(space):
    matrix = space.group_matrix()
    for labelled in subsets(space):
        rest = matrix & ~np.array(labelled)
        groups = tuple(tuple(np.flatnonzero(row).tolist()) for row in rest if row.any())
        assert groups == space.background_groups(labelled)


# --- raw label values --------------------------------------------------------------------------

WHERE = "local/sites/site-1.json"


def test_table_translates_raw_values_to_channels():
    table = WITH_LESIONS.table({1: "kidney", 2: "kidney_tumor"}, where=WHERE)
    raw = np.array([[0, 1], [2, 1]], dtype=np.int16)
    translated = table.apply(raw)
    assert translated.dtype == np.uint8
    assert translated.tolist() == [[0, 6], [7, 6]]
    assert raw.tolist() == [[0, 1], [2, 1]], "the input is left alone"
    assert table.labelled == ("kidney", "kidney_tumor")
    assert table.num_channels == 8


def test_table_understands_left_and_right_as_one_class_and_leaves_structures_out():
    table = WITH_LESIONS.table({5: "kidney", 3: "kidney", 9: "background"}, where=WHERE)
    assert table.apply(np.array([0, 3, 5, 9])).tolist() == [0, 6, 6, 0]
    assert table.labelled == ("kidney",)


def test_table_merges_lesions_into_organs():
    table = MERGED.table({1: "liver", 2: "liver_tumor"}, where=WHERE)
    assert table.apply(np.array([0, 1, 2])).tolist() == [0, 1, 1]
    assert table.labelled == ("liver",)
    only_lesion = MERGED.table({2: "liver_tumor"}, where=WHERE)
    assert only_lesion.labelled == ("liver",)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int64, np.float32, np.float64])
def test_integers_of_any_dtype_are_translated(dtype):
    raw = np.array([[[0], [1]], [[2], [0]]], dtype=dtype)
    translated = WITH_LESIONS.table({1: "pancreas", 2: "pancreas_tumor"}, where=WHERE).apply(raw)
    assert translated.dtype == np.uint8
    assert translated.shape == raw.shape
    assert translated.ravel().tolist() == [0, 4, 5, 0]


def test_the_largest_raw_value_is_allowed_and_an_empty_array_stays_empty():
    assert np.iinfo(np.uint16).max == MAX_RAW_VALUE
    table = WITH_LESIONS.table({MAX_RAW_VALUE: "spleen"}, where=WHERE)
    assert table.apply(np.array([MAX_RAW_VALUE, 0], dtype=np.uint16)).tolist() == [3, 0]
    assert table.apply(np.zeros((0, 3), dtype=np.uint8)).shape == (0, 3)


@pytest.mark.parametrize(
    ("raw", "unknown"),
    [
        (np.array([0, 1, 2, 7, 7]), [2, 7]),
        (np.array([-1, 0, 1]), [-1]),
        (np.array([255, 1], dtype=np.uint8), [255]),
        (np.array([0.0, 0.5, 1.0]), [0.5]),
        (np.array([1.0, 1.0 + 1e-6]), [1.0 + 1e-6]),
        (np.array([0.0, np.inf]), [np.inf]),
    ],
)
def test_values_without_a_name_are_refused(raw, unknown):
    table = WITH_LESIONS.table({1: "liver"}, where=WHERE)
    assert table.unknown(raw) == unknown
    error = refused(lambda: table.apply(raw), where="label file", field="values")
    assert error.got == unknown
    assert "[0, 1]" in error.expected


def test_not_a_number_is_refused():
    table = WITH_LESIONS.table({1: "liver"}, where=WHERE)
    refused(lambda: table.apply(np.array([0.0, np.nan])), where="label file", field="values")


def test_known_values_are_not_reported():
    table = WITH_LESIONS.table({1: "liver", 4: "background"}, where=WHERE)
    assert table.unknown(np.array([4.0, 1.0, 0.0])) == []


@pytest.mark.parametrize("space_", [WITH_LESIONS, MERGED])
def test_raw_value_zero_is_background_and_need_not_be_named(space_):
    named = space_.table({0: "background", 1: "liver"}, where=WHERE)
    assert named == space_.table({1: "liver"}, where=WHERE)
    assert named.apply(np.array([0])).tolist() == [0]


@pytest.mark.parametrize("name", ["liver", "liver_tumor"])
def test_raw_value_zero_cannot_be_a_class(name):
    error = refused(lambda: WITH_LESIONS.table({0: name, 1: "spleen"}, where=WHERE), where=WHERE, field="labels.0")
    assert error.got == name


@pytest.mark.parametrize("raw", [-1, MAX_RAW_VALUE + 1, 10**12])
def test_raw_values_outside_the_range_are_refused(raw):
    error = refused(lambda: WITH_LESIONS.table({raw: "liver"}, where=WHERE), where=WHERE)
    assert error.got == raw
    assert str(MAX_RAW_VALUE) in error.expected


def test_table_refuses_unknown_names():
    assert refused(lambda: WITH_LESIONS.table({1: "liver", 2: "lung"}, where=WHERE), where=WHERE).got == "lung"


@pytest.mark.parametrize("raw_labels", [{}, {0: "background"}, {1: "background"}])
def test_table_refuses_a_site_that_labels_nothing(raw_labels):
    refused(lambda: WITH_LESIONS.table(raw_labels, where=WHERE), where=WHERE)


def test_every_labelled_class_of_every_space_is_translated_to_its_channel(space):
    raw_labels = {10 + i: name for i, name in enumerate(space.classes)}
    table = space.table(raw_labels, where=WHERE)
    assert table.apply(np.array(list(raw_labels))).tolist() == list(range(1, space.num_channels))
    assert table.labelled == space.classes


# --- lesions merged into their organ ------------------------------------------------------------


def test_the_merged_space_has_the_same_organs_without_their_lesions(space):
    assert space.merged.organs == space.organs
    assert space.merged.classes == tuple(part for organ in space.organs for part in organ.parts)
    assert space.merged.merged == space.merged


def test_a_lesion_becomes_its_organ_and_everything_else_stays():
    channels = np.array([[0, 1, 2, 3], [4, 5, 6, 7]], dtype=np.uint8)
    found = WITH_LESIONS.merge_channels(channels)
    assert found.tolist() == [[0, 1, 1, 2], [3, 3, 4, 4]]
    assert found.dtype == np.uint8


def test_merging_channels_goes_by_the_names(space):
    found = space.merge_channels(np.arange(space.num_channels))
    organ = {name: o.name for o in space.organs for name in (o.name, *o.lesions)}
    organ |= {part: part for o in space.organs for part in o.parts}
    names = [space.merged.channels[channel] for channel in found]
    assert names == [BACKGROUND, *(organ[name] for name in space.classes)]


def test_merging_twice_is_merging_once(space):
    once = space.merge_channels(np.arange(space.num_channels))
    assert space.merged.merge_channels(once).tolist() == once.tolist()


@pytest.mark.parametrize(
    ("labelled", "merged"),
    [
        (("liver", "liver_tumor"), ("liver",)),
        (("liver",), ("liver",)),
        (("liver_tumor",), ()),
        (("liver_tumor", "spleen"), ("spleen",)),
        (WITH_LESIONS.classes, MERGED.classes),
    ],
)
def test_a_case_annotates_the_organs_it_names_and_a_lesion_alone_is_no_organ(labelled, merged):
    """Outside of the lesion nobody said what is organ, so the merged class would be wrong there."""
    found = WITH_LESIONS.merge_mask(WITH_LESIONS.labelled_mask(labelled))
    assert found.dtype == bool
    assert MERGED.names(found) == merged
    assert not found[0]


# --- right and left -----------------------------------------------------------------------------

X = np.diag([10.0, 10.0, 10.0, 1.0])
"""World x grows with the first index, so the patient's right lies at the end of the first axis."""


def row(*values) -> np.ndarray:
    return np.array(values, dtype=np.uint8).reshape(-1, 1, 1)


def test_an_organ_with_sides_is_two_classes_right_first():
    assert SIDED.classes == ("liver", "kidney_right", "kidney_left", "spleen")
    assert SIDED.organ_groups == ((1,), (2,), (3,), (4,))
    assert SIDED.background_groups(SIDED.labelled_mask(["kidney_right"])) == ((0,), (1,), (3,), (4,))


def test_the_organ_and_its_lesion_mean_both_sides():
    for name in ("kidney", "kidney_tumor"):
        assert SIDED.channels_of(name) == (2, 3)
        assert SIDED.names(SIDED.labelled_mask([name])) == ("kidney_right", "kidney_left")
    assert SIDED.channels_of("kidney_left") == (3,)
    assert SIDED.names(SIDED.labelled_mask(["kidney_left", "liver_tumor"])) == ("liver", "kidney_left")


def test_an_organ_with_sides_has_no_channel_of_its_own():
    error = refused(lambda: SIDED.index("kidney", where="site-1.json"), where="site-1.json")
    assert error.got == "kidney"
    assert "kidney_right or kidney_left" in error.expected
    assert [SIDED.index(f"kidney_{side}") for side in ("right", "left")] == [2, 3]


def test_every_name_that_a_site_file_may_use_is_told():
    error = refused(lambda: SIDED.channels_of("kidneys"))
    told = set(error.expected.removeprefix("one of ").split(", "))
    assert told >= {"kidney", "kidney_right", "kidney_left", "kidney_tumor", "liver_tumor"}


def test_sides_need_merged_lesions():
    for organs in (SIDED.organs, (Organ(name="kidney", sides=True),)):
        error = refused(lambda organs=organs: LabelSpace(organs=organs), field="merge_lesions")
        assert "kidney" in error.expected


@pytest.mark.parametrize("name", ["kidney_right", "kidney_left"])
def test_the_name_of_a_side_is_taken(name):
    organs = (Organ(name="kidney", sides=True), Organ(name=name))
    assert refused(lambda: LabelSpace(organs=organs, merge_lesions=True), field="organs").got == name


def test_a_table_finds_the_side_of_a_value_that_means_both():
    table = SIDED.table({1: "kidney", 2: "kidney_tumor", 5: "spleen"}, where=WHERE)
    assert (table.labelled, table.pairs) == (("kidney_right", "kidney_left", "spleen"), ((2, 3),))
    raw = row(0, 1, 2, 0, 0, 5, 0, 0, 2, 1)
    found = table.apply(raw, X)
    assert found.dtype == np.uint8
    assert found.ravel().tolist() == [0, 3, 3, 0, 0, 4, 0, 0, 2, 2]
    flipped = table.apply(raw[::-1], X @ np.diag([-1.0, 1, 1, 1]))
    assert flipped.ravel().tolist() == found.ravel().tolist()[::-1], "stored from right to left, the same patient"
    assert raw.ravel().tolist() == [0, 1, 2, 0, 0, 5, 0, 0, 2, 1], "the input is left alone"


def test_an_organ_and_its_lesion_are_one_kidney_when_the_side_is_decided():
    """The lesion alone would lie on the other side of the scan's middle."""
    table = SIDED.table({1: "kidney", 2: "kidney_tumor"}, where=WHERE)
    assert table.apply(row(0, 0, 0, 0, 2, 1, 1, 1, 1, 0), X).ravel().tolist() == [0, 0, 0, 0, 2, 2, 2, 2, 2, 0]
    alone = table.apply(row(0, 0, 0, 0, 2, 0, 0, 0, 0, 0), X)
    assert alone.ravel().tolist() == [0, 0, 0, 0, 3, 0, 0, 0, 0, 0]


def test_a_side_that_the_site_names_is_believed_wherever_it_lies():
    table = SIDED.table({1: "kidney_right", 2: "kidney_left"}, where=WHERE)
    assert table.pairs == ()
    assert table.apply(np.array([0, 1, 2])).tolist() == [0, 2, 3]


def test_a_named_side_and_a_lesion_of_either_side_share_a_site():
    table = SIDED.table({1: "kidney_left", 2: "kidney_tumor"}, where=WHERE)
    assert table.apply(row(0, 1, 1, 0, 0, 0, 0, 0, 2, 0), X).ravel().tolist() == [0, 3, 3, 0, 0, 0, 0, 0, 2, 0]


def test_sides_need_to_know_where_the_voxels_lie():
    table = SIDED.table({1: "kidney"}, where=WHERE)
    with pytest.raises(ValueError, match="affine"):
        table.apply(row(0, 1))


def test_unknown_values_are_refused_beside_sides():
    table = SIDED.table({1: "kidney"}, where=WHERE)
    assert refused(lambda: table.apply(row(0, 1, 7), X), where="label file", field="values").got == [7]


def test_raw_value_zero_cannot_be_an_organ_with_sides():
    refused(lambda: SIDED.table({0: "kidney"}, where=WHERE), where=WHERE, field="labels.0")
