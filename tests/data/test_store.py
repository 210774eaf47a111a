"""Cases are prepared once: resumed, shared between processes, and prepared again only when something changed."""

from __future__ import annotations

import errno
import gzip
import json
import logging
import os
import pickle
import resource
import shutil
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_hospital import write_case, write_nifti, write_site

from fedpartial.data import store
from fedpartial.data.preprocess import load_label
from fedpartial.data.stored_case import foreground_index
from fedpartial.errors import DataFaults, NoSpaceLeft
from fedpartial.presets import get_preset
from fedpartial.sites import phantom_site


def stamps(folder: Path) -> dict[str, int]:
    """When each file of the prepared cases was written."""
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*.*") if path.is_file()}


def rewritten(before: dict[str, int], after: dict[str, int]) -> set[str]:
    """Case folders (by image name) of which a file is new or was written again."""
    return {Path(path).parent.name.split("-")[0] for path, stamp in after.items() if before.get(path) != stamp}


def test_what_is_stored(make_site, preset):
    site = make_site(training=2, validation=1)
    prepared = store.prepare_cases(site, preset)
    assert [case.image_path.name for case in prepared.training] == ["t0.nii.gz", "t1.nii.gz"]
    (case,) = prepared.validation
    assert (case.split, case.index) == ("validation", 0)
    assert isinstance(case.image, np.memmap)
    assert isinstance(case.label, np.memmap)
    assert (case.image.dtype, case.label.dtype) == (np.float16, np.uint8)
    assert not case.image.flags.writeable
    assert case.image.shape == case.label.shape == case.original_shape == (16, 14, 12)
    assert case.present == (1, 2)
    assert preset.label_space.names(case.labelled) == ("liver", "liver_tumor")
    np.testing.assert_array_equal(case.affine, case.original_affine)
    for channel in case.present:
        voxels = case.foreground(channel)
        assert voxels.dtype == np.int16
        assert len(voxels) == (case.label == channel).sum()
        assert (case.label[tuple(voxels.T)] == channel).all()


def test_a_testing_case_may_lack_a_label(make_site, preset, tmp_path):
    site = make_site(training=1, validation=0)
    given = json.loads(site.datalist.read_text())
    write_nifti(site.data_root / "only.nii.gz", np.ones((9, 9, 9), dtype=np.int16))
    site = write_site(site.data_root, {**given, "testing": ["only.nii.gz"]})
    (case,) = store.prepare_cases(site, preset, splits=("testing",)).cases["testing"]
    assert case.label is None
    assert case.present == ()


def test_opening_again_writes_nothing_reads_no_volume_and_is_quick(make_site, preset, monkeypatch):
    site = make_site(training=18, validation=2, shape=(10, 10, 10))
    before = stamps(store.prepare_cases(site, preset).folder)
    monkeypatch.setattr(store.Inspector, "inspect", None)
    seconds = []
    for _ in range(5):
        start = time.process_time()
        prepared = store.prepare_cases(site, preset)
        seconds.append(time.process_time() - start)
    assert stamps(prepared.folder) == before
    assert len(before) == 20 * 4
    assert min(seconds) < 0.03


def test_opening_imports_neither_nibabel_nor_monai(make_site, preset):
    site = make_site(training=1, validation=0)
    store.prepare_cases(site, preset)
    code = """
import pickle, sys
from fedpartial.data import augment, loader, sampler, store
site, preset = pickle.loads(sys.stdin.buffer.read())
cases = store.prepare_cases(site, preset).training
stream = loader.BatchStream(sampler.PatchSampler(cases, preset, seed=0, site="here"), start=0, stop=2)
assert len(list(stream)) == 2
assert not {"nibabel", "monai", "scipy"} & set(sys.modules), sorted(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], input=pickle.dumps((site, preset)), check=True)


def test_a_changed_image_is_prepared_again_and_only_that(make_site, preset):
    site = make_site(training=2, validation=1)
    folder = store.prepare_cases(site, preset).folder
    before = stamps(folder)
    write_case(site.data_root, "t1", seed=99)
    prepared = store.prepare_cases(site, preset)
    assert rewritten(before, stamps(folder)) == {"t1"}
    assert {path.name.split("-")[0] for path in folder.iterdir()} == {"t0", "t1", "v0"}
    expected = np.random.default_rng(99).normal(100, 60, (16, 14, 12)).clip(-54, 258)
    np.testing.assert_allclose(prepared.training[1].image, (expected - 100) / 50, atol=2e-3)


def test_a_changed_label_with_the_old_size_and_time_is_noticed(make_site, preset):
    site = make_site(training=1, validation=0)
    path = site.data_root / "t0_label.nii.gz"
    plain = path.with_name("plain.nii")
    plain.write_bytes(gzip.decompress(path.read_bytes()))
    site = write_site(site.data_root, {"training": [{"image": "t0.nii.gz", "label": "plain.nii"}]})
    store.prepare_cases(site, preset)
    stat = plain.stat()
    data = bytearray(plain.read_bytes())
    data[-1] = 1
    plain.write_bytes(data)
    os.utime(plain, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert plain.stat().st_size == stat.st_size
    assert store.prepare_cases(site, preset).training[0].label[-1, -1, -1] == 1


def test_labels_of_one_case_that_changed_are_noticed(make_site, preset):
    site = make_site(training=2, validation=0)
    site = replace(site, labels={1: "liver", 2: "liver_tumor", 3: "spleen"})
    folder = store.prepare_cases(site, preset).folder
    before = stamps(folder)
    given = json.loads(site.datalist.read_text())
    given["training"][0]["labels"] = ["liver", "liver_tumor"]
    site.datalist.write_text(json.dumps(given))
    prepared = store.prepare_cases(site, preset)
    names = [preset.label_space.names(case.labelled) for case in prepared.training]
    assert names == [("liver", "liver_tumor"), ("liver", "liver_tumor", "spleen")]
    assert rewritten(before, stamps(folder)) == {"t0"}


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"spacing_mm": (2.0, 2.0, 3.0)}, False),
        ({"window_hu": (-100.0, 258.0)}, False),
        ({"normalise_subtract": 90.0}, False),
        ({"normalise_divide": 40.0}, False),
        ({"label_space": get_preset("phantom", merge_lesions=True).label_space}, False),
        ({"patch": (4, 4, 4), "foreground_fraction": 0.1, "augmentation": "none", "num_rounds": 3}, True),
        ({"name": "mine", "optimizer": replace(get_preset("phantom").optimizer, lr=1.0)}, True),
    ],
)
def test_the_store_depends_on_what_decides_its_content_and_on_nothing_else(make_site, preset, change, same):
    site = make_site(training=1, validation=0)
    first = store.prepare_cases(site, preset)
    second = store.prepare_cases(site, replace(preset, **change))
    assert (first.folder == second.folder) is same
    if "label_space" in change:
        assert second.training[0].present == (1,)
        assert (second.training[0].label == 1).sum() == (first.training[0].label > 0).sum()


def test_other_label_values_of_the_site_and_another_site_have_another_store(make_site, preset):
    site = make_site(training=1, validation=0)
    changed = (site, replace(site, labels={1: "spleen", 2: "spleen"}), replace(site, name="there"))
    folders = {store.prepare_cases(other, preset).folder for other in changed}
    assert len(folders) == 3


@pytest.mark.parametrize(
    ("name", "merge_lesions", "site", "key"),
    [
        ("phantom", False, "kidney", "f0f3c6b62b88"),
        ("phantom", True, "kidney", "5c06aba02c19"),
        ("phantom_coarse", False, "external", "945e59d36340"),
        ("abdomen", False, "kidney", "9eef94c8aa6d"),
        ("phantom_segviz", False, "kidney", "1161b8775853"),
        ("segviz", False, "external", "76b368259f05"),
    ],
)
def test_stores_prepared_by_older_versions_keep_their_key(name, merge_lesions, site, key):
    """Computed before organs could have sides: nobody prepares hours of data again for a field that they do not use."""
    assert store.store_key(phantom_site(site), get_preset(name, merge_lesions=merge_lesions)) == key


def test_sides_have_a_store_of_their_own(make_site, preset):
    site = make_site(training=1, validation=0)
    spaces = [get_preset(name).label_space for name in ("segviz", "psmos")]
    assert spaces[0].organs != spaces[1].organs
    assert len({store.store_key(site, replace(preset, label_space=space)) for space in spaces}) == 2


def test_a_case_with_sides_is_stored_as_it_is_scored(make_site, preset):
    """One block, called a kidney: stored and scored as the side that it lies on."""
    site = replace(make_site(training=1, validation=0), labels={1: "kidney", 2: "kidney_tumor"})
    space = get_preset("psmos").label_space
    (case,) = store.prepare_cases(site, replace(preset, label_space=space)).training
    assert space.names(case.labelled) == ("kidney_right", "kidney_left")
    left = space.index("kidney_left")
    assert case.present == (left,), "the block lies below the middle of x"
    volume = load_label(case.label_path)
    reference = space.table(site.labels, where="test").apply(volume.array, volume.affine)
    np.testing.assert_array_equal(case.label, reference)


def test_an_interrupted_preparation_goes_on_where_it_stopped(make_site, preset, monkeypatch):
    site = make_site(training=3, validation=0)
    write, written = store.write_case, []

    def interrupted(folder, *arrays):
        if len(written) == 1:
            (folder / "image.npy").write_bytes(b"half")
            raise KeyboardInterrupt
        written.append(folder)
        write(folder, *arrays)

    monkeypatch.setattr(store, "write_case", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.prepare_cases(site, preset)
    monkeypatch.setattr(store, "write_case", write)
    (folder,) = [path for path in (site.cache_dir / "store").iterdir() if path.is_dir()]
    assert len(list(folder.iterdir())) == 2
    before = stamps(folder)
    prepared = store.prepare_cases(site, preset)
    assert rewritten(before, stamps(folder)) == {"t1", "t2"}
    assert len(list(folder.iterdir())) == 3
    assert all(case.image.shape == (16, 14, 12) for case in prepared.training)


def test_two_at_once_prepare_every_case_once_and_the_second_says_that_it_waits(make_site, preset, monkeypatch, caplog):
    site = make_site(training=3, validation=1)
    write, written, results = store.write_case, [], []

    def slow(folder, *arrays):
        written.append(folder)
        time.sleep(0.05)
        write(folder, *arrays)

    monkeypatch.setattr(store, "write_case", slow)
    caplog.set_level(logging.INFO, logger=store.__name__)
    threads = [threading.Thread(target=lambda: results.append(store.prepare_cases(site, preset))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 3
    assert len(written) == 4
    assert caplog.text.count("waiting for another process") == 2
    assert all(len(prepared.training) == 3 and prepared.training[0].image.shape for prepared in results)


def test_all_faults_in_one_report_and_faultless_cases_are_kept(make_site, preset):
    site = make_site(training=3, validation=1)
    write_nifti(site.data_root / "t1.nii.gz", np.full((16, 14, 12), np.nan, dtype=np.float32))
    write_nifti(site.data_root / "v0_label.nii.gz", np.full((16, 14, 12), 9, dtype=np.uint8))
    with pytest.raises(DataFaults) as error:
        store.prepare_cases(site, preset)
    assert [fault.file.name for fault in error.value.faults] == ["t1.nii.gz", "v0_label.nii.gz"]
    seen = []
    for name in ("t1", "v0"):
        write_case(site.data_root, name)
    prepared = store.prepare_cases(site, preset, progress=lambda *args: seen.append(args))
    assert seen == [(1, 2, "t1.nii.gz"), (2, 2, "v0.nii.gz")]
    assert len(prepared.training) == 3


def test_a_wrong_class_name_of_a_case_is_a_fault_like_the_others(make_site, preset):
    site = make_site(training=2, validation=0)
    given = json.loads(site.datalist.read_text())
    given["training"][1]["labels"] = ["livr"]
    site.datalist.write_text(json.dumps(given))
    (site.data_root / "t0.nii.gz").unlink()
    with pytest.raises(DataFaults, match="2 fault"):
        store.prepare_cases(site, preset)


def test_without_check_files_are_still_read_to_the_end(make_site, preset):
    site = make_site(training=2, validation=0)
    write_nifti(site.data_root / "t0.nii.gz", np.full((16, 14, 12), np.nan, dtype=np.float32))
    path = site.data_root / "t1.nii.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataFaults) as error:
        store.prepare_cases(site, preset, check=False)
    assert [fault.file.name for fault in error.value.faults] == ["t1.nii.gz"]


def test_a_lost_or_broken_meta_file_means_prepare_again(make_site, preset):
    site = make_site(training=2, validation=0)
    first, second = store.prepare_cases(site, preset).training
    (first.folder / "meta.json").write_text("")
    shutil.rmtree(second.folder)
    assert all(case.image.shape == (16, 14, 12) for case in store.prepare_cases(site, preset).training)


def test_sending_a_case_to_a_worker_sends_no_voxels(make_site, preset):
    (case,) = store.prepare_cases(make_site(training=1, validation=0, shape=(40, 40, 40)), preset).training
    assert case.image.size == case.label.size == 64_000
    case.foreground(1)
    sent = pickle.dumps(case)
    assert len(sent) < 5_000
    np.testing.assert_array_equal(pickle.loads(sent).image, case.image)


def test_a_large_foreground_is_thinned_out_the_same_way_every_time():
    label = np.zeros((40, 40, 40), dtype=np.uint8)
    label[:30] = 4
    label[5, 5, 5] = 6
    coordinates, rows = foreground_index(label)
    assert rows == {4: (0, 20_000), 6: (20_000, 20_001)}
    assert len(np.unique(coordinates, axis=0)) == 20_001
    assert (label[tuple(coordinates[:20_000].T)] == 4).all()
    np.testing.assert_array_equal(coordinates[20_000], [5, 5, 5])
    np.testing.assert_array_equal(foreground_index(label)[0], coordinates)
    assert abs(coordinates[:20_000, 0].mean() - 14.5) < 0.3


@contextmanager
def files_of_at_most(size: int):
    """The limit of a file's size, in bytes, stands for the disk's; Python turns its signal into an error."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_told_and_leaves_no_part_of_a_case(make_site, preset):
    """The small first case fits, the second does not."""
    site = make_site(training=1, validation=0)
    (kept,) = store.prepare_cases(site, preset).training
    before = stamps(kept.folder)
    large = write_case(site.data_root, "large", shape=(40, 40, 40))
    datalist = json.loads(site.datalist.read_text())
    site.datalist.write_text(json.dumps({**datalist, "training": [*datalist["training"], large]}))
    with files_of_at_most(40_000), pytest.raises(NoSpaceLeft) as full:
        store.prepare_cases(site, preset)
    assert full.value.what == "the prepared cases"
    assert not list(kept.folder.parent.glob(f"{store.UNFINISHED}*"))
    assert stamps(kept.folder) == before, "the earlier case stays as it is"
    assert len(store.prepare_cases(site, preset).training) == 2, "with room again it goes on"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_every_kind_of_full_disk_is_the_same_fault(make_site, preset, monkeypatch, number):
    monkeypatch.setattr(store, "write_case", raising(OSError(number, "full")))
    site = make_site(training=1, validation=0)
    with pytest.raises(NoSpaceLeft, match="no space left for the prepared cases"):
        store.prepare_cases(site, preset)
    assert not [path for path in site.cache_dir.rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_another_fault_of_the_disk_is_no_full_disk(make_site, preset, monkeypatch):
    monkeypatch.setattr(store, "write_case", raising(OSError(errno.EIO, "broken")))
    with pytest.raises(OSError, match="broken"):
        store.prepare_cases(make_site(training=1, validation=0), preset)


def raising(error: Exception):
    def fail(*_, **__):
        raise error

    return fail
