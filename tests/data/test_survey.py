"""What is said about a case: every awkward file has a right result or one clear fault, and numbers are right."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from awkward import AWKWARD, REMARKS, case, organs, scan
from tiny_hospital import write_nifti, write_site

from fedpartial.data.datalist import read_datalist
from fedpartial.data.label_values import count_values
from fedpartial.data.site_survey import SiteSurvey, repeated_images
from fedpartial.data.store import prepare_cases
from fedpartial.data.survey import survey_case
from fedpartial.errors import DataFaults
from fedpartial.presets import get_preset

PRESET = replace(get_preset("abdomen"), patch=(2, 2, 1), spacing_mm=(2.0, 2.0, 3.0))


def survey_of(root, entry, labels=None):
    site = write_site(root, {"training": [entry]}, labels)
    (only,) = read_datalist(site)["training"]
    return survey_case(only, site, PRESET)[0]


@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_files_give_a_right_result_or_one_clear_fault(name, tmp_path):
    build, kind = AWKWARD[name]
    survey = survey_of(tmp_path, build(tmp_path))
    faults, remarks = [f.kind for f in survey.faults], [r.kind for r in survey.remarks]
    assert faults == ([kind] if kind and kind not in REMARKS else [])
    assert faults or remarks == ([kind] if kind else [])
    for found in (*survey.faults, *survey.remarks):
        assert found.remedy.endswith((".", "?", ")"))
        assert "\n" not in str(found)
    if not faults and kind != "empty label":
        assert survey.volumes_ml["liver_tumor"] > 0


@pytest.mark.parametrize("name", AWKWARD)
def test_training_takes_and_refuses_the_same_files(name, tmp_path):
    build, kind = AWKWARD[name]
    site = write_site(tmp_path, {"training": [build(tmp_path)]})
    if kind and kind not in REMARKS:
        with pytest.raises(DataFaults) as error:
            prepare_cases(site, PRESET)
        assert [fault.kind for fault in error.value.faults] == [kind]
    else:
        (prepared,) = prepare_cases(site, PRESET).training
        assert prepared.image.shape == prepared.label.shape
        assert set(prepared.present) == (set() if kind == "empty label" else {1, 2})


def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path):
    from fedpartial.data.readable import load_checked

    case(tmp_path)

    def forbidden(path):
        raise PermissionError(13, "Permission denied", str(path))

    load_checked(tmp_path / "ct.nii.gz", "image", forbidden, faults := [])
    (fault,) = faults
    assert fault.kind == "no permission"
    assert "damaged" not in str(fault)


def test_numbers_of_a_case(tmp_path):
    survey = survey_of(tmp_path, case(tmp_path))
    assert survey.shape == survey.prepared == (12, 10, 8)
    assert survey.spacing_mm == (2.0, 2.0, 3.0)
    assert survey.orientation == "RAS"
    label = organs()
    for value, name in ((1, "liver"), (2, "liver_tumor")):
        assert survey.volumes_ml[name] == pytest.approx((label == value).sum() * 12 / 1000)
    image = scan()
    assert survey.intensities[::3] == (image.min(), image.max())
    assert survey.intensities[2] == np.percentile(image, 99.5, method="inverted_cdf")


def test_the_same_scan_is_known_again_whatever_was_done_to_the_file(tmp_path):
    images = [scan(), scan()[::-1], scan().astype(np.float32), scan(seed=5)]
    for number, image in enumerate(images):
        write_nifti(tmp_path / f"{number}.nii.gz", image)
    entries = [{"image": f"{number}.nii.gz"} for number in range(len(images))]
    site = write_site(tmp_path, {"training": [], "testing": entries})
    listed = read_datalist(site)["testing"]
    surveys = [survey_case(one, site, PRESET)[0] for one in listed]
    assert len({survey.digest for survey in surveys}) == 2
    faults, remarks = repeated_images([surveys[0], replace(surveys[1], site="elsewhere"), surveys[2], surveys[3]])
    assert [name for name, _ in faults] == ["elsewhere"]
    assert "0.nii.gz" in str(faults[0][1])
    assert [name for name, _ in remarks] == ["here"]


def test_a_class_without_voxels_and_the_room_that_prepared_cases_take(tmp_path):
    entry = case(tmp_path, label=np.minimum(organs(), 1))
    site = write_site(tmp_path, {"training": [entry]})
    survey = SiteSurvey(site=site, cases=(survey_of(tmp_path, entry),))
    assert [found.present for found in survey.classes] == [1, 0]
    unscored = ["no labelled testing case", "no labelled validation case"]
    assert [remark.kind for remark in survey.remarks] == ["class without voxels", *unscored]
    folder = prepare_cases(site, PRESET).training[0].folder
    arrays = sum(np.load(folder / f"{name}.npy", mmap_mode="r").nbytes for name in ("image", "label"))
    assert survey.stored_bytes == arrays


@pytest.mark.parametrize(
    "array",
    [
        organs(),
        organs(dtype=np.float64),
        organs().astype(">u2"),
        np.array([-1, 0, 0, 3]),
        np.array([0.5, np.nan, 0.5, 2]),
        np.array([70_000, 1], dtype=np.int64),
        np.asfortranarray(organs()),
    ],
)
def test_values_are_counted_as_numpy_counts_them(array, monkeypatch):
    monkeypatch.setattr("fedpartial.data.label_values.CHUNK_VOXELS", 7)
    values, counts = count_values(array)
    expected, times = np.unique(array, return_counts=True)
    np.testing.assert_array_equal(values, expected)
    np.testing.assert_array_equal(counts, times)
