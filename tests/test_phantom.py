"""The phantom is the same for everyone, looks like an abdomen, and its files survive interruptions and company."""

from __future__ import annotations

import hashlib
import json
import logging
import subprocess
import sys
import threading
import time
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from filelock import FileLock
from scipy.ndimage import binary_dilation, center_of_mass

from fedpartial.errors import ConfigError
from fedpartial.phantom import PHANTOM_SITES, ensure_phantom, make_case, phantom_dir
from fedpartial.phantom.case import case_grid
from fedpartial.phantom.organs import paint_organs
from fedpartial.phantom.scanner import place_patient
from fedpartial.phantom.shapes import Canvas, Ellipsoid, ball, spline, tube
from fedpartial.phantom.surroundings import paint_surroundings
from fedpartial.presets import ABDOMEN

CASES = [("kidney", 0), ("liver", 1), ("pancreas", 2), ("pancreas", 5), ("spleen", 3), ("external", 0)]
TUMORS = {"liver_tumor": "liver", "pancreas_tumor": "pancreas", "kidney_tumor": "kidney"}
# Median HU over all voxels of a class in the noisy image: phase and patient variation included.
HU_RANGE = {
    "liver": (88, 130),
    "liver_tumor": (25, 75),
    "spleen": (105, 145),
    "pancreas": (70, 115),
    "pancreas_tumor": (20, 65),
    "kidney": (150, 215),
    "kidney_tumor": (60, 105),
}
TINY = {"training": 1, "validation": 1, "testing": 1, "spacing_mm": (6.0, 9.0)}


@pytest.fixture(scope="module")
def cases():
    return {(site, index): make_case(site, index) for site, index in CASES}


@pytest.fixture
def tiny(monkeypatch):
    """A site of three cases."""
    monkeypatch.setitem(PHANTOM_SITES, "tiny", replace(PHANTOM_SITES["liver"], **TINY))
    return "tiny"


def mask(case, name):
    return case.full_label == ABDOMEN.index(name)


# Shapes on hand-sized grids.


def canvas_of_mm(*shape):
    """Voxel index = patient mm."""
    return Canvas(np.indices(shape).astype(np.float32), np.eye(4), 0.0)


def test_ellipsoid_turned_a_quarter_swaps_its_radii():
    quarter = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    solid = Ellipsoid(centre=np.zeros(3), radii=np.array([3.0, 1, 1]), turn=quarter)
    points = np.array([[2.5, 0, 0], [0, 2.5, 0], [0, 3.5, 0]]).T.reshape(3, 3, 1, 1)
    assert solid.inside(points).ravel().tolist() == [False, True, False]
    assert np.allclose(solid.reach, [1, 3, 1])


def test_paint_covers_only_what_it_may():
    canvas = canvas_of_mm(5, 5, 5)
    canvas.tissue[:2] = 7
    canvas.paint(ball((2, 2, 2), 1.0), 9, over=(0,))
    assert np.argwhere(canvas.tissue == 9).tolist() == [
        [2, 1, 2],
        [2, 2, 1],
        [2, 2, 2],
        [2, 2, 3],
        [2, 3, 2],
        [3, 2, 2],
    ]
    assert (canvas.tissue[:2] == 7).all()


def test_paint_outside_the_grid_changes_nothing():
    canvas = canvas_of_mm(4, 4, 4)
    canvas.paint([ball((-20, 2, 2), 3.0), ball((2, 30, 2), 3.0)], 9)
    assert not canvas.tissue.any()


def test_paint_finds_voxels_that_the_deformation_moved_by_the_slack():
    canvas = Canvas(np.indices((12, 12, 12)).astype(np.float32) + 3, np.eye(4), 3.0)
    canvas.paint(ball((6, 6, 6), 1.0), 9)
    assert canvas.tissue[3, 3, 3] == 9
    assert np.count_nonzero(canvas.tissue) == 7


def test_tube_has_no_gaps_and_reaches_both_ends():
    canvas = canvas_of_mm(40, 9, 9)
    canvas.paint(tube(np.array([(4, 4, 4), (20, 4, 4), (35, 4, 4)]), [3, 3, 3]), 1)
    assert canvas.tissue[1:39, 4, 4].all()
    assert np.all(canvas.tissue[4:36, 4, 4 + 2] == 1)


def test_spline_passes_through_its_knots():
    knots, values = np.array([0.0, 1, 3]), np.array([[0.0, 5], [2, 1], [-1, 4]])
    assert np.allclose(spline(knots, values, knots), values)


# Cases.


def test_same_triple_gives_same_arrays(cases):
    again = make_case("liver", 1)
    for field in ("image", "full_label", "label", "affine"):
        assert np.array_equal(getattr(again, field), getattr(cases["liver", 1], field)), field


@pytest.mark.parametrize(("site", "index", "seed"), [("liver", 1, 1), ("spleen", 1, 0), ("liver", 7, 0)])
def test_other_seed_site_or_index_is_another_patient(cases, site, index, seed):
    one, other = cases["liver", 1], make_case(site, index, seed=seed)
    assert np.linalg.norm(one.affine - other.affine) > 1
    volumes = [mask(case, "liver").sum() * abs(np.linalg.det(case.affine[:3, :3])) for case in (one, other)]
    assert abs(volumes[0] - volumes[1]) > 1000


def test_types_and_shapes(cases):
    for case in cases.values():
        assert (case.image.dtype, case.full_label.dtype, case.label.dtype) == (np.int16, np.uint8, np.uint8)
        assert case.image.shape == case.full_label.shape == case.label.shape
        assert case.affine.shape == (4, 4)


def test_label_file_holds_only_the_sites_own_classes(cases):
    for (site, _), case in cases.items():
        table = ABDOMEN.table(PHANTOM_SITES[site].labels, where=site)
        expected = np.where(np.isin(case.full_label, [ABDOMEN.index(n) for n in table.labelled]), case.full_label, 0)
        assert np.array_equal(table.apply(case.label), expected)
        assert case.label.any()


def test_every_patient_has_every_organ_and_the_cases_have_every_class(cases):
    for case in cases.values():
        assert all(mask(case, organ.name).any() for organ in ABDOMEN.organs)
    assert all(any(mask(case, name).any() for case in cases.values()) for name in ABDOMEN.classes)


def test_organs_have_their_hu(cases):
    for key, case in cases.items():
        for name, (low, high) in HU_RANGE.items():
            if (inside := mask(case, name)).any():
                assert low < np.median(case.image[inside]) < high, (key, name)


def test_corners_are_air_and_labels_lie_in_soft_tissue(cases):
    for case in cases.values():
        assert np.median(case.image[0, 0, :]) < -900
        assert np.mean((case.image < -60) & (case.full_label > 0)) < 0.02


def test_tumors_touch_their_organ_and_are_darker(cases):
    checked = 0
    for key, case in cases.items():
        for tumor, organ in TUMORS.items():
            inside, around = mask(case, tumor), mask(case, organ)
            if inside.any():
                assert (binary_dilation(inside) & around).any(), (key, tumor)
                assert np.median(case.image[around]) - np.median(case.image[inside]) >= 40, (key, tumor)
                checked += 1
    assert checked >= 10


def test_amos_draws_organs_with_their_lesions_and_the_vessels():
    case, names = make_case("amos", 0), PHANTOM_SITES["amos"].labels
    drawn = {name: case.label == value for value, name in names.items()}
    for organ in ABDOMEN.organs:
        group = [organ.name, *organ.lesions]
        assert np.array_equal(drawn[organ.name], np.isin(case.full_label, [ABDOMEN.index(n) for n in group])), organ
    assert any(mask(case, tumor).any() for tumor in TUMORS)
    centre = {name: case.affine[:3, :3] @ center_of_mass(inside) for name, inside in drawn.items()}
    assert centre["aorta"][0] < centre["vena_cava"][0]  # the aorta lies left of it
    assert not (case.full_label[drawn["aorta"] | drawn["vena_cava"]]).any()  # no class of ConDistFL
    for name in ("aorta", "vena_cava"):
        assert 100 < np.median(case.image[drawn[name]]) < 200, name


def test_the_public_images_have_no_labels(tmp_path, monkeypatch):
    monkeypatch.setitem(PHANTOM_SITES, "public", replace(PHANTOM_SITES["public"], training=1, spacing_mm=(6.0, 9.0)))
    path = ensure_phantom(tmp_path, "public")
    assert json.loads(path.read_text())["training"] == [{"image": "images/case_000.nii.gz"}]
    assert [p.name for p in path.parent.rglob("*.nii.gz")] == ["case_000.nii.gz"]
    assert not make_case("public", 0).label.any()
    assert make_case("public", 0).full_label.any()


# Geometry.


def axis_code(affine):
    return "".join(nib.aff2axcodes(affine))


@pytest.mark.parametrize("site", PHANTOM_SITES)
def test_first_cases_come_in_several_orientations(site):
    affines = [case_grid(site, index)[1] for index in range(12)]
    codes = {axis_code(affine) for affine in affines}
    assert len(codes) >= 3
    assert any(code[0] not in "RL" for code in codes), "no permuted axes"
    assert any("L" in code for code in codes), "no flipped axes"
    assert all(np.abs(affine[:3, 3]).max() > 10 for affine in affines), "an origin at zero"


def test_spacing_is_anisotropic_and_some_scans_are_oblique():
    affines = [case_grid(site, i)[1][:3, :3] for site in PHANTOM_SITES for i in range(12)]
    for linear in affines:
        spacing = np.sort(np.linalg.norm(linear, axis=0))
        assert 2.49 < spacing[0] < 3.51 and 3.99 < spacing[2] < 6.01  # noqa: PT018
    oblique = [linear for linear in affines if np.count_nonzero(np.abs(linear) > 1e-3) > 3]
    assert 2 <= len(oblique) <= len(affines) // 2


def test_organs_lie_on_their_side_in_world_mm_however_stored(cases):
    codes = set()
    for case in cases.values():
        centre = {
            n: case.affine[:3, :3] @ center_of_mass(mask(case, n)) for n in ("liver", "spleen", "kidney", "pancreas")
        }
        centre = {n: c + case.affine[:3, 3] for n, c in centre.items()}
        assert centre["liver"][0] > 20 and centre["spleen"][0] < -40  # noqa: PT018
        assert centre["kidney"][1] < centre["pancreas"][1]
        assert centre["kidney"][2] < centre["liver"][2]
        codes.add(axis_code(case.affine))
    assert {"LAS", "RAS", "ARS"} <= codes


def paint(shape, affine):
    canvas = place_patient(shape, affine, np.random.default_rng(1))
    paint_surroundings(canvas, np.random.default_rng(2))
    paint_organs(canvas, np.random.default_rng(3))
    return canvas.tissue


def test_painting_reaches_every_voxel_of_a_deformed_patient():
    affine = np.array([[0, 0, 5.0, -125], [-4, 0, 0, 80], [0, 4, 0, -80], [0, 0, 0, 1]])
    canvas, rng = place_patient((40, 40, 50), affine, np.random.default_rng(5)), np.random.default_rng(6)
    for centre in rng.uniform(-60, 60, (20, 3)):
        turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        solid = Ellipsoid(centre=centre, radii=np.array([30.0, 10, 20]), turn=turn)
        canvas.tissue[:] = 0
        canvas.paint(solid, 1)
        assert np.array_equal(canvas.tissue == 1, solid.inside(canvas.points))
        assert canvas.tissue.any()


def test_another_storage_order_shows_the_same_patient():
    shape, affine = (60, 50, 40), np.diag([5.0, 4.6, 5.2, 1])
    affine[:3, 3] = (-150, -110, 30)
    stored = affine[:, [1, 0, 2, 3]] @ np.array([[1, 0, 0, 0], [0, -1, 0, 59], [0, 0, -1, 39], [0, 0, 0, 1.0]])
    one, other = paint(shape, affine), paint((50, 60, 40), stored)
    assert axis_code(stored) == "ALI"
    # Rounding may move a voxel that lies exactly on a border.
    assert np.mean(one != other[:, ::-1, ::-1].transpose(1, 0, 2)) < 1e-3


# Files.


def test_datalist_names_files_that_nibabel_reads(tmp_path, tiny):
    done = []
    path = ensure_phantom(tmp_path, tiny, seed=3, progress=lambda n, total: done.append((n, total)))
    assert path == phantom_dir(tmp_path, tiny, 3) / "datalist.json"
    assert done == [(1, 3), (2, 3), (3, 3)]
    datalist = json.loads(path.read_text())
    assert datalist["labels"] == {"0": "background", "1": "liver", "2": "liver_tumor"}
    assert [len(datalist[split]) for split in ("training", "validation", "testing")] == [1, 1, 1]
    entry, case = datalist["testing"][0], make_case(tiny, 2, seed=3)
    for key, array in (("image", case.image), ("label", case.label)):
        read = nib.load(path.parent / entry[key])
        assert np.array_equal(np.asarray(read.dataobj), array)
        assert read.get_data_dtype() == array.dtype
        assert np.allclose(read.get_sform(), case.affine, atol=1e-4)
        assert np.allclose(read.get_qform(), case.affine, atol=1e-2)


def files_of(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_interrupted_run_writes_only_what_is_missing(tmp_path, tiny):
    datalist = ensure_phantom(tmp_path, tiny)
    image = datalist.parent / "images" / "case_001.nii.gz"
    before, written = image.read_bytes(), files_of(datalist.parent)
    image.unlink()
    datalist.unlink()
    (image.parent / f".part-{image.name}").write_bytes(b"half a file")
    stamps = {path: path.stat().st_mtime_ns for path in datalist.parent.rglob("*.nii.gz") if path.name[0] != "."}
    assert ensure_phantom(tmp_path, tiny) == datalist
    assert image.read_bytes() == before
    assert files_of(datalist.parent) == written
    assert len(stamps) == 5
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


def test_complete_data_set_is_not_touched(tmp_path, tiny):
    datalist = phantom_dir(tmp_path, tiny) / "datalist.json"
    datalist.parent.mkdir()
    datalist.write_text("as it was")
    assert ensure_phantom(tmp_path, tiny) == datalist
    assert files_of(tmp_path) == [datalist.relative_to(tmp_path).as_posix()]
    assert datalist.read_text() == "as it was"


def test_waits_for_another_writer_and_says_so(tmp_path, tiny, caplog):
    folder = phantom_dir(tmp_path, tiny)
    with caplog.at_level(logging.INFO, logger="fedpartial.phantom"):
        with FileLock(folder.with_name(f"{folder.name}.lock")):
            thread = threading.Thread(target=ensure_phantom, args=(tmp_path, tiny))
            thread.start()
            deadline = time.monotonic() + 20
            while "Waiting for another process" not in caplog.text and time.monotonic() < deadline:
                time.sleep(0.01)
            assert "Waiting for another process" in caplog.text
            assert thread.is_alive()
            assert not folder.exists()
        thread.join(timeout=30)
    assert (folder / "datalist.json").exists()


SCRIPT = """
import sys
from dataclasses import replace
from pathlib import Path
from fedpartial.phantom import PHANTOM_SITES, ensure_phantom
PHANTOM_SITES["tiny"] = replace(PHANTOM_SITES["liver"], training=1, validation=0, testing=0, spacing_mm=(6.0, 9.0))
print("ready", flush=True)
sys.stdin.readline()
ensure_phantom(Path(sys.argv[1]), "tiny", progress=lambda done, total: print(done))
"""


def test_two_processes_write_one_data_set(tmp_path, tiny, monkeypatch):
    monkeypatch.setitem(PHANTOM_SITES, tiny, replace(PHANTOM_SITES[tiny], validation=0, testing=0))
    command = [sys.executable, "-W", "error", "-c", SCRIPT, str(tmp_path / "both")]
    pair = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.stdout.readline() for process in pair] == ["ready\n"] * 2
    for process in pair:
        process.stdin.write("go\n")
        process.stdin.flush()
    written = [process.communicate()[0].split() for process in pair]
    assert [process.returncode for process in pair] == [0, 0]
    assert sorted(written) == [[], ["1"]]
    both, alone = phantom_dir(tmp_path / "both", tiny), ensure_phantom(tmp_path / "alone", tiny).parent
    assert len(files_of(alone)) == 3
    assert files_of(both) == files_of(alone)
    assert all((both / name).read_bytes() == (alone / name).read_bytes() for name in files_of(alone))


def test_unknown_site_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ConfigError, match="lungs"):
        ensure_phantom(tmp_path / "root", "lungs")
    assert not (tmp_path / "root").exists()


def test_site_table_matches_the_federation():
    splits = {name: (s.training, s.validation, s.testing) for name, s in PHANTOM_SITES.items()}
    assert splits.pop("external") == (0, 0, 6)
    assert splits.pop("full") == (8, 3, 3)
    assert splits.pop("amos") == (16, 3, 3)
    assert splits.pop("public") == (12, 0, 0)
    assert splits == dict.fromkeys(("kidney", "liver", "pancreas", "spleen"), (16, 3, 3))
    assert all(tuple(PHANTOM_SITES[name].labels.values()) == ABDOMEN.classes for name in ("external", "full"))


def test_no_two_sites_have_the_same_scanner():
    scanners = {(s.noise_hu, s.blur_mm, s.spacing_mm, *sorted(s.phase.items())) for s in PHANTOM_SITES.values()}
    assert len(scanners) == len(PHANTOM_SITES) == 8


@pytest.mark.parametrize(
    ("site", "digest"),
    [("kidney", "e3bad9b840caf5fb"), ("spleen", "c97272e01d75204c"), ("external", "d55adf4f6f3b148e")],
)
def test_cases_stay_what_they_were_when_sites_are_added(cases, site, digest):
    """Prepared stores and the numbers of docs/results.md rest on them; computed before the site "full" was added."""
    case = cases.get((site, 0)) or make_case(site, 0)
    arrays = (case.image, case.full_label, case.label, case.affine)
    assert hashlib.blake2b(b"".join(a.tobytes() for a in arrays), digest_size=8).hexdigest() == digest


def test_importing_sites_stays_light():
    heavy = "{'nibabel', 'scipy', 'torch', 'monai', 'nvflare'}"
    code = f"import sys, fedpartial.sites; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
