"""The server's images without labels: checked with everything else before a run, and staged where FLARE finds them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_stages import site_files

from fedpartial.cli.job_folder import find_job
from fedpartial.cli.prepare import Checked, Options, check, prepare
from fedpartial.cli.refused import Refused
from fedpartial.sites import PUBLIC, read_public, read_site
from one_round import home  # noqa: F401

SITES = ("liver", "spleen")
CLASSES = ("liver", "spleen")


@pytest.fixture(scope="module")
def all_files(tmp_path_factory) -> Path:
    return site_files(tmp_path_factory.mktemp("stages"))


@pytest.fixture
def files(all_files, tmp_path) -> Path:
    """A folder for --site-config with two sites and the public images, free to change."""
    folder = tmp_path / "my sites"
    folder.mkdir()
    for name in (*SITES, PUBLIC):
        shutil.copytree(all_files / f"{name}_data", folder / f"{name}_data")
        shutil.copy(all_files / f"{name}.json", folder)
    return folder


@pytest.fixture
def checked(files, tmp_path) -> Callable[..., Checked]:
    """``checked(job="mmds")`` is the check of a run; nothing is trained."""

    def run(given: Path | None = files, **changes) -> Checked:
        temporary = tmp_path / "temporary"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        wanted = {"job": "mmds", "sites": SITES, "site_config": given, "out": tmp_path / "out", **changes}
        return check(Options(**wanted), temporary, lambda options, _: options.out)

    return run


@pytest.fixture
def refusals(checked, tmp_path) -> Callable[..., list[str]]:
    """What the user is told, without a temporary path."""

    def run(**changes) -> list[str]:
        with pytest.raises(Refused) as refused:
            checked(**changes)
        told = [str(fault) for fault in refused.value.faults]
        assert str(tmp_path / "temporary") not in "\n".join(told)
        assert not (tmp_path / "out").exists()
        return told

    return run


def change(path: Path, **values) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def names(found: Checked) -> list[str]:
    return [site.name for site in found.sites]


def test_a_run_with_public_images_has_no_faults_and_reads_them(checked, files):
    found = checked()
    assert names(found) == [*SITES, PUBLIC]
    assert found.sites[-1].data_root == found.site_folder.config_dir / "sites" / "public_data"


def test_public_images_are_staged_with_absolute_paths(checked, files, tmp_path):
    change(files / "public.json", device="cpu", datalist="datalist.json")
    before = (files / "public.json").read_bytes()
    checked()
    elsewhere = Path(shutil.copytree(tmp_path / "temporary" / "local", tmp_path / "workspace" / "server" / "local"))
    shutil.rmtree(tmp_path / "temporary")
    staged = json.loads((elsewhere / "sites" / "public.json").read_text())
    assert staged == {
        "data_root": str(files / "public_data"),
        "cache_dir": str(files / "public_cache"),
        "device": "cpu",
        "datalist": "datalist.json",
    }
    public = read_public(elsewhere, CLASSES, phantom=False)
    assert public.data_root == files / "public_data"
    assert public.datalist.is_file()
    assert (files / "public.json").read_bytes() == before


def test_the_folder_of_a_sites_models_is_staged_absolute_too(checked, files, tmp_path):
    change(files / "liver.json", model_dir="../models of liver")
    checked()
    shutil.copytree(tmp_path / "temporary" / "local", tmp_path / "ws" / "liver" / "local")
    shutil.rmtree(tmp_path / "temporary")
    liver = read_site("liver", tmp_path / "ws" / "liver" / "local")
    assert liver.model_dir.is_absolute()
    assert liver.model_dir.resolve() == tmp_path / "models of liver"
    given = json.loads((tmp_path / "ws" / "liver" / "local" / "sites" / "spleen.json").read_text())
    assert "model_dir" not in given, "a site without one keeps its models at home"


def test_the_run_folder_holds_the_public_file_for_every_process(files, tmp_path):
    (tmp_path / "temporary").mkdir()
    options = Options(job="mmds", sites=SITES, site_config=files, out=tmp_path / "out")
    done = prepare(options, tmp_path / "temporary")
    for folder in (done.out, done.workspace / "local"):
        assert read_public(folder, CLASSES, phantom=False).data_root == files / "public_data"


# --- when they are needed ---------------------------------------------------------------------------------


def test_sites_with_files_need_public_images(refusals, files):
    (files / "public.json").unlink()
    (told,) = refusals()
    assert told.startswith(f"site public: {files / 'public.json'}: (file): got 'no such file'")
    assert '{"training": [{"image": "a.nii.gz"}]}, without labels' in told


def test_the_phantoms_sites_need_none(checked):
    assert names(checked(given=None)) == list(SITES)


def test_the_phantoms_sites_may_have_others(checked, files):
    for name in SITES:
        (files / f"{name}.json").unlink()
    found = checked()
    assert names(found) == [*SITES, PUBLIC]
    assert [site.source for site in found.sites] == ["phantom", "phantom", "site file"]


@pytest.mark.parametrize(
    ("job", "sites"), [("mmds_evaluate", SITES), ("mmds_fedavg", SITES), ("fedavg", SITES), ("mmds_central", None)]
)
def test_a_job_that_does_not_distil_needs_none(checked, files, job, sites):
    (files / "public.json").unlink()
    given = files if sites else None
    assert PUBLIC not in names(checked(given, job=job, sites=sites))


def test_no_steps_of_distillation_need_none(checked, files):
    (files / "public.json").unlink()
    assert names(checked(values={"distil_steps": 0})) == list(SITES)


# --- what is wrong with them ------------------------------------------------------------------------------


def test_faults_of_public_images_and_of_sites_are_found_in_one_pass(refusals, files):
    (files / "public_data" / "image1.nii.gz").unlink()
    change(files / "liver.json", labels={"1": "lever"})
    liver, public = refusals()
    assert liver.startswith("site liver: ")
    assert public.startswith(f"site public: {files / 'public_data' / 'datalist.json'}: training: got ")
    assert str(files / "public_data" / "image1.nii.gz") in public
    assert "(1 are missing)" in public


def test_a_wrong_folder_does_not_list_a_thousand_images(refusals, files):
    images = [{"image": f"{number}.nii.gz"} for number in range(1000)]
    change(files / "public_data" / "datalist.json", training=images)
    told = refusals()
    assert len(told) == 5
    assert all("(1000 are missing)" in fault for fault in told)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"data_root": "nowhere"}, "data_root: got "),
        ({"datalist": "other.json"}, "datalist: got "),
        ({"labels": {"1": "liver"}}, "labels: got 'an unknown key'"),
        ({"model_dir": "x"}, "model_dir: got 'an unknown key'"),
        ({"device": 0}, "device: got 0"),
        ({"device": "gpu"}, "device: got 'gpu'"),
    ],
)
def test_a_wrong_public_file_is_named(refusals, files, values, said):
    change(files / "public.json", **values)
    (told,) = refusals()
    assert told.startswith(f"site public: {files / 'public.json'}: ")
    assert said in told


@pytest.mark.parametrize(
    ("datalist", "said"),
    [
        ({"training": []}, "training: got []"),
        ({"testing": [{"image": "image0.nii.gz"}]}, "training: got 'nothing'"),
        ({"training": [{"image": "image0.nii.gz", "label": "x.nii.gz"}]}, "training[0]: got 'a label'"),
        ({"training": [{"img": "image0.nii.gz"}]}, "training[0]: img: got 'an unknown key'"),
        ({"training": [7]}, "training[0]"),
    ],
)
def test_a_wrong_datalist_is_named(refusals, files, datalist, said):
    path = files / "public_data" / "datalist.json"
    path.write_text(json.dumps(datalist))
    (told,) = refusals()
    assert told.startswith(f"site public: {path}: ")
    assert said in told


def test_the_device_of_the_command_line_holds_instead_of_the_files(checked, files):
    change(files / "public.json", device="gpu")
    assert names(checked(device="cpu")) == [*SITES, PUBLIC]


def test_a_public_file_that_is_no_json_is_named(refusals, files):
    (files / "public.json").write_text("{")
    (told,) = refusals()
    assert told.startswith(f"site public: {files / 'public.json'}: (file): ")


def test_no_site_is_called_public(refusals):
    (told,) = refusals(sites=("liver", PUBLIC))
    assert "--sites: sites: got 'public'" in told


def test_no_site_of_a_job_folder_is_called_public(refusals, tmp_path):
    job = Path(shutil.copytree(find_job("mmds"), tmp_path / "jobs" / "mine"))
    change(job / "meta.json", deploy_map={"app": ["server", "liver", PUBLIC]}, min_clients=2)
    told = refusals(job=str(job), sites=None)
    assert any("'public'" in fault and str(job / "meta.json") in fault for fault in told)
