"""``fedpartial train-alone``: a site trains when it likes, goes on where it was, and is told what is wrong."""

from __future__ import annotations

import errno
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.progress import Progress
from small_hospitals import write_data, write_hospitals

from fedpartial.cli import train_alone as command
from fedpartial.cli.reply import Reply, attempt
from fedpartial.cli.train_alone import Request, train_site_alone
from fedpartial.networks.universal import universal_classes
from fedpartial.sites import HOME_VARIABLE
from fedpartial.training.local_trainer import LocalTrainer, TrainingDiverged
from fedpartial.training.model_file import load_model
from one_round import home, same_tensors, universal  # noqa: F401

JOBS = Path(command.__file__).parents[3] / "jobs"
STEPS, PORTION = 6, 3
GIVEN = {"job": "mmds_stage1", "site": "spleen", "preset": "tiny_universal", "local_steps": STEPS, "seed": 3}


@pytest.fixture(autouse=True)
def short_portions(monkeypatch):
    """Two of them."""
    monkeypatch.setattr("fedpartial.training.alone.LONGEST_PORTION", PORTION)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """Site files of liver and spleen, and a cache that fills while the tests run."""
    return write_hospitals(tmp_path_factory.mktemp("hospitals"))


@pytest.fixture
def train(prepared, screen) -> Callable[..., int]:
    """``train(seed=4)`` is the command for the spleen site of mmds_stage1; the exit code."""

    def run(**changes) -> int:
        request = Request(**{**GIVEN, "site_config": prepared, **changes})
        return attempt(lambda reply: train_site_alone(request, reply), screen.reply)

    return run


@pytest.fixture(scope="module")
def finished(prepared, universal, tmp_path_factory) -> Path:  # noqa: F811
    """The home folder of a site that has trained."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(HOME_VARIABLE, str(folder))
        patch.setattr("fedpartial.training.alone.LONGEST_PORTION", PORTION)
        assert train_site_alone(Request(**GIVEN, site_config=prepared), Reply()) == 0
    return folder


@pytest.fixture
def trained(finished, home) -> Path:  # noqa: F811
    """A local model as it lies at the site after training."""
    shutil.copytree(finished, home)
    (model,) = models(home)
    return model


@pytest.fixture
def bar(monkeypatch) -> list[int]:
    """Every number of steps that the progress bar showed; at ``bar.stop_at`` the user interrupts."""

    class Shown(list):
        stop_at = STEPS + 1

    shown, update = Shown(), Progress.update

    def noted(progress: Progress, task, **fields) -> None:
        shown.append(fields["completed"])
        update(progress, task, **fields)
        if fields["completed"] >= shown.stop_at:
            raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "update", noted)
    return shown


@pytest.fixture
def never_trained(monkeypatch):
    """A step of training fails the test."""
    monkeypatch.setattr(LocalTrainer, "run_steps", lambda *_, **__: pytest.fail("trained"))


@pytest.fixture
def refused(train, screen, never_trained) -> Callable[..., str]:
    """``refused(job="x")`` is what the user is told, in one sentence without a temporary path."""

    def run(**changes) -> str:
        assert train(**changes) == 2
        assert screen.out == ""
        assert screen.errors.startswith("error: ")
        assert screen.errors.count("error: ") == 1
        assert f"{tempfile.gettempdir()}/fedpartial-" not in screen.errors
        assert "Traceback" not in screen.errors
        return screen.errors

    return run


def models(home: Path) -> list[Path]:  # noqa: F811
    return sorted(home.rglob("*.safetensors"))


def test_it_trains_and_says_where_the_model_lies(train, screen, home, bar):  # noqa: F811
    assert train() == 0
    (model,) = models(home)
    weights, _ = load_model(model)
    assert universal_classes(weights) == ("spleen",)
    assert f"{model}: {STEPS} steps in " in screen.out
    assert "validation Dice spleen 0." in screen.out
    assert "mmds_stages" in model.parts
    assert bar[0] == 0
    assert bar == sorted(bar)
    assert bar[-1] == STEPS
    assert screen.errors == ""


def test_the_second_time_nothing_is_trained(train, screen, trained, never_trained):
    before = trained.read_bytes()
    assert train() == 0
    assert f"{trained}: trained before; validation Dice spleen 0." in screen.out
    assert trained.read_bytes() == before


def test_interrupted_it_says_so_and_goes_on_to_the_very_same_model(train, screen, home, finished, bar):  # noqa: F811
    bar.stop_at = PORTION + 2
    assert train() == 130
    assert "the same command goes on" in screen.errors
    assert not [path for path in models(home) if "training" not in path.parts]
    bar.clear()
    bar.stop_at = STEPS + 1
    assert train() == 0
    assert bar[0] == PORTION, "the first portion was trained again"
    (model,), (unbroken,) = models(home), models(finished)
    assert f"{model}: {STEPS} steps in " in screen.out
    assert same_tensors(load_model(model)[0], load_model(unbroken)[0])


@pytest.mark.parametrize("changes", [{"seed": 4}, {"local_steps": PORTION}, {"preset": "tiny_deeper"}])
def test_another_recipe_trains_another_model(train, trained, home, bar, changes):  # noqa: F811
    before = trained.read_bytes()
    assert train(**changes) == 0
    assert bar[0] == 0
    assert models(home) == [trained]
    assert trained.read_bytes() != before


def test_another_federation_has_a_model_of_its_own(train, trained, home):  # noqa: F811
    assert train(values={"federation": "other"}) == 0
    (other,) = set(models(home)) - {trained}
    assert "other" in other.parts
    assert same_tensors(load_model(trained)[0], load_model(other)[0])


def test_a_site_trains_the_preset_that_the_job_has_for_it(train, home):  # noqa: F811
    values = {"site_presets": {"liver": "tiny_deeper"}, "distil_steps": 3}
    assert train(job="mmds_heterogeneous", site="liver", local_steps=PORTION, values=values) == 0
    (model,) = models(home)
    assert load_model(model)[1].plan["preset"] == "tiny_deeper"


def test_a_site_that_the_job_gets_later_trains_the_classes_that_it_is_given(train, home):  # noqa: F811
    """Its name stands in no job folder until 'fedpartial bundle --sites' writes it."""
    values = {"site_classes": {"liver": ["liver"]}}
    assert train(job="mmds_stage4", site="liver", local_steps=PORTION, values=values) == 0
    (model,) = models(home)
    assert universal_classes(load_model(model)[0]) == ("liver",)


def test_the_model_lies_where_the_site_file_says(train, prepared, home, tmp_path):  # noqa: F811
    folder = tmp_path / "sites"
    folder.mkdir()
    given = json.loads((prepared / "spleen.json").read_text())
    given |= {"data_root": str(prepared / given["data_root"]), "model_dir": "../of my own"}
    (folder / "spleen.json").write_text(json.dumps(given))
    assert train(site_config=folder) == 0
    assert models(home) == []
    (model,) = models(tmp_path / "of my own")
    assert "links" not in str(model)


def test_a_full_disk_is_said_without_a_traceback(train, screen, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(LocalTrainer, "run_steps", full)
    assert train() == 1
    assert screen.errors.startswith("error: no space left for the site's models in ")


def test_training_that_diverges_has_an_exit_code_of_its_own(train, screen, monkeypatch):
    def diverges(*_, **__):
        raise TrainingDiverged("the loss of site spleen is not a number")

    monkeypatch.setattr(LocalTrainer, "run_steps", diverges)
    assert train() == 1
    assert screen.errors == "error: the loss of site spleen is not a number\n"


# --- what is wrong ----------------------------------------------------------------------------------------


def test_an_unknown_job_names_the_known_ones(refused):
    said = refused(job="mmsd")
    assert "'mmsd'" in said
    assert "mmds_stage1" in said


def test_a_job_with_rounds_is_refused(refused):
    said = refused(job="fedavg", preset=None)
    assert "got 'fedavg'" in said
    assert "a job whose sites train alone" in said
    assert str(JOBS / "fedavg") in said


def test_a_job_of_rounds_of_the_universal_network_is_refused(refused):
    assert "a job whose sites train alone" in refused(job="mmds_fedavg", preset=None)


@pytest.mark.parametrize("site", ["public", "server", "external"])
def test_names_of_other_things_are_no_sites(refused, site):
    said = refused(site=site)
    assert repr(site) in said


def test_an_unknown_site_is_told_which_file_to_write(refused, prepared):
    said = refused(site="hospital-1")
    assert "site hospital-1: " in said
    assert str(prepared / "hospital-1.json") in said


def test_a_value_that_the_job_does_not_have_is_refused(refused):
    said = refused(values={"distill_steps": 3})
    assert "distill_steps: got 'no such key'" in said
    assert str(JOBS / "mmds_stage1") in said


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"federation": "../elsewhere"}, "federation: got '../elsewhere'"),
        ({"federation": ""}, "a job whose sites train alone"),
        ({"linger": -1}, "linger: got -1"),
        ({"deadline": "soon"}, "deadline: got 'soon'"),
        ({"embeddings": "vectors.safetensors"}, "vectors.safetensors"),
    ],
)
def test_a_wrong_value_is_named(refused, values, said):
    assert said in refused(values=values)


def test_a_stranger_in_the_jobs_classes_is_named(refused):
    said = refused(job="mmds_stage4", site="liver", values={"site_classes": {"livre": ["liver"]}})
    assert "site_classes: got 'livre'" in said


def test_an_unknown_preset_is_refused(refused):
    assert "--preset: preset: got 'phantom_mdms'" in refused(preset="phantom_mdms")


def test_a_preset_of_another_network_is_refused(refused):
    assert "preset: got 'phantom'" in refused(preset="phantom")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"labels": {"1": "spleeen"}}, "'spleeen'"),
        ({"data_root": "nowhere"}, "data_root: got "),
        ({"modeldir": "x"}, "modeldir: got 'an unknown key'"),
        ({"device": "gpu"}, "device: got 'gpu'"),
    ],
)
def test_a_wrong_site_file_is_named_as_the_user_knows_it(refused, prepared, tmp_path, change, said):
    folder = tmp_path / "sites of mine"
    folder.mkdir()
    given = json.loads((prepared / "spleen.json").read_text())
    root = str(prepared / given["data_root"])
    (folder / "spleen.json").write_text(json.dumps({**given, "data_root": root, **change}))
    text = refused(site_config=folder)
    assert "site spleen: " in text
    assert said in text
    assert str(folder) in text


def test_a_folder_of_site_files_that_is_not_there_is_refused(refused, tmp_path):
    assert "--site-config: folder" in refused(site_config=tmp_path / "nowhere")


def test_an_image_that_cannot_be_read_is_named(train, screen, tmp_path, never_trained):
    write_data(tmp_path / "data")
    (tmp_path / "data" / "training1.nii.gz").write_bytes(b"not an image")
    given = {"labels": {"1": "spleen", "2": "background"}, "data_root": "data", "cache_dir": "cache", "device": "cpu"}
    (tmp_path / "spleen.json").write_text(json.dumps(given))
    assert train(site_config=tmp_path) == 2
    assert screen.errors.startswith("error: ")
    assert "training1.nii.gz" in screen.errors
    assert "Traceback" not in screen.errors
