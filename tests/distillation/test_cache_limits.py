"""What the cache costs: open files, and reading what is there; and one model that spoils nothing for the others."""

import os

import pytest
import torch
from toy_federation import TOY, Models, stopping_after, toy_distiller, toy_volumes

from fedpartial.distillation import probability_files
from fedpartial.distillation.probabilities import ProbabilityCache
from fedpartial.distillation.soft_patches import SoftSampler, soft_volume
from fedpartial.errors import ConfigError
from fedpartial.training.local_trainer import TrainingStopped
from fedpartial.training.precision import Precision

CPU = Precision(device=torch.device("cpu"), dtype=torch.float32)
CLASSES = ("liver", "spleen")


@pytest.fixture
def volumes(tmp_path):
    return toy_volumes(tmp_path / "volumes")


def run(tmp_path, volumes, teachers, folder="run", **given):
    distiller = toy_distiller(volumes, tmp_path / "maps")
    return distiller.run(teachers, **{"steps": 2, "checkpoint_dir": tmp_path / folder, **given})


def test_no_map_stays_open_however_many_there_are(tmp_path, volumes):
    teacher, cache = Models().teacher("north", *CLASSES), ProbabilityCache(tmp_path / "maps", TOY)
    cache.fill(teacher, volumes, CPU)
    sampler = SoftSampler([soft_volume(v, cache.maps(teacher, v), CLASSES) for v in volumes], TOY, seed=0)
    images = [volume.image for volume in volumes]
    before = len(os.listdir("/proc/self/fd"))
    sampler.batch(0)
    assert len(os.listdir("/proc/self/fd")) == before
    assert len(images) == 2


def test_a_run_reads_what_is_there_once(tmp_path, volumes, monkeypatch):
    teacher, read, checksum = Models().teacher("north", *CLASSES), [], probability_files._checksum
    run(tmp_path, volumes, [teacher])
    monkeypatch.setattr(
        probability_files, "_checksum", lambda file, check: (read.append(file), checksum(file, check))[1]
    )
    run(tmp_path, volumes, [teacher], "again")
    assert len(read) == len(set(read)) == len(volumes) * len(CLASSES) * 2, "map and foreground"


def test_stop_ends_the_reading_of_what_is_there(tmp_path, volumes, monkeypatch):
    teacher, read, checksum = Models().teacher("north", *CLASSES), [], probability_files._checksum
    run(tmp_path, volumes, [teacher])
    monkeypatch.setattr(
        probability_files, "_checksum", lambda file, check: (read.append(file), checksum(file, check))[1]
    )
    with pytest.raises(TrainingStopped, match="looked"):
        run(tmp_path, volumes, [teacher], "again", stop=stopping_after(3))
    assert len(read) == 3


def test_a_model_whose_outputs_are_unusable_does_not_stop_the_others(tmp_path, volumes):
    models = Models()
    bad = models.teacher("bad", "liver", sureness=float("nan"))
    good = models.teacher("good", *CLASSES)
    found = run(tmp_path, volumes, [bad, good])
    assert found.classes == CLASSES
    assert {choice.teacher for choice in found.choices} == {"good"}
    assert list(found.left_out) == ["bad"]
    assert bad.key in found.left_out["bad"]
    alone = run(tmp_path, volumes, [good], "alone")
    assert alone.left_out == {}
    assert all(torch.equal(found.weights[name], value) for name, value in alone.weights.items())
    with pytest.raises(ConfigError, match=f"{bad.key}.*not finite"):
        run(tmp_path, volumes, [bad])


def test_a_result_says_how_many_steps_were_taken_now(tmp_path, volumes):
    teacher = Models().teacher("north", "liver")
    done = []
    with pytest.raises(TrainingStopped):
        run(
            tmp_path,
            volumes,
            [teacher],
            steps=5,
            on_progress=lambda *one: done.append(one),
            stop=lambda: len(done) == 5,
        )
    assert run(tmp_path, volumes, [teacher], steps=5).steps_now == 2
    assert run(tmp_path, volumes, [teacher], steps=5).steps_now == 0
    assert run(tmp_path, volumes, [teacher], "new", steps=5).steps_now == 5
