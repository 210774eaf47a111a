"""The cache: one inference per model version and volume, ever; killed, damaged, changed."""

import logging

import numpy as np
import pytest
import torch
from toy_federation import SHAPE, TOY, Models, SeesNothing, change_image, stopping_after, toy_volumes

from fedpartial.data.stored_case import FOREGROUND_VOXELS
from fedpartial.distillation.probabilities import ProbabilityCache, infer, volume_key
from fedpartial.distillation.probability_files import ERROR_BOUND, STEPS, read_maps, write_maps
from fedpartial.distillation.teachers import Teacher
from fedpartial.errors import ConfigError
from fedpartial.training.precision import Precision

CPU = Precision(device=torch.device("cpu"), dtype=torch.float32)


@pytest.fixture
def volumes(tmp_path):
    return toy_volumes(tmp_path / "volumes")


def cache(tmp_path) -> ProbabilityCache:
    """A new object each time, as in a new process."""
    return ProbabilityCache(tmp_path / "probabilities", TOY)


def test_a_model_looks_at_a_volume_once_whatever_is_asked_and_by_whom(tmp_path, volumes):
    models = Models()
    teacher = models.teacher("north", "liver", "spleen")
    assert cache(tmp_path).fill(teacher, volumes, CPU) == 2
    passes = dict(models.passes)
    assert passes["north"] > 0
    assert cache(tmp_path).fill(teacher, volumes, CPU) == 0
    assert (models.passes, models.loads) == (passes, ["north"])


def test_a_new_version_of_a_model_looks_anew_and_the_old_one_keeps_its_maps(tmp_path, volumes):
    models = Models()
    first, second = (models.teacher("north", "liver", version=version) for version in (1, 2))
    assert cache(tmp_path).fill(first, volumes, CPU) == 2
    assert cache(tmp_path).fill(second, volumes, CPU) == 2
    assert cache(tmp_path).maps(first, volumes[0]).keys() == {"liver"}


def test_a_new_volume_and_a_changed_one_are_looked_at_and_no_other(tmp_path, volumes):
    models = Models()
    teacher = models.teacher("north", "liver")
    cache(tmp_path).fill(teacher, volumes[:1], CPU)
    assert cache(tmp_path).fill(teacher, volumes, CPU) == 1
    change_image(volumes[0])
    assert cache(tmp_path).maps(teacher, volumes[0]) is None
    assert cache(tmp_path).fill(teacher, volumes, CPU) == 1


def test_a_process_that_is_killed_goes_on_after_the_last_whole_volume(tmp_path, volumes):
    models, seen = Models(), []
    teacher = models.teacher("north", "liver")
    stop = stopping_after(_windows(models, teacher, volumes))

    def killed():
        if stop():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache(tmp_path).fill(teacher, volumes, CPU, check=killed, on_volume=lambda *counts: seen.append(counts))
    assert seen == [(1, 2)]
    (tmp_path / "probabilities" / teacher.key / ".half.npy.1.tmp").write_bytes(b"half")
    assert cache(tmp_path).fill(teacher, volumes, CPU) == 1
    assert not list((tmp_path / "probabilities" / teacher.key).glob("*.tmp"))


def _windows(models: Models, teacher: Teacher, volumes) -> int:
    """Passes of one volume."""
    infer(teacher, teacher.load(), volumes[0], TOY, CPU, lambda: None)
    return models.passes[teacher.name]


@pytest.mark.parametrize("suffix", ["-liver.npy", "-liver.foreground.npy", ".json"])
@pytest.mark.parametrize("harm", ["cut", "flipped", "missing"])
def test_a_damaged_file_is_made_again_with_a_warning(tmp_path, volumes, caplog, suffix, harm):
    teacher = Models().teacher("north", "liver")
    cache(tmp_path).fill(teacher, volumes, CPU)
    before = {name: m.quantised.copy() for name, m in cache(tmp_path).maps(teacher, volumes[0]).items()}
    _harm(tmp_path / "probabilities" / teacher.key / f"{volume_key(volumes[0], TOY)}{suffix}", harm)
    with caplog.at_level(logging.WARNING):
        assert cache(tmp_path).fill(teacher, volumes, CPU) == 1
    not_done = suffix == ".json" and harm == "missing"
    assert [record.levelname for record in caplog.records] == ([] if not_done else ["WARNING"])
    assert np.array_equal(cache(tmp_path).maps(teacher, volumes[0])["liver"].quantised, before["liver"])


def _harm(path, harm):
    content = path.read_bytes()
    path.unlink()
    if harm == "cut":
        path.write_bytes(content[:-7])
    elif harm == "flipped":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def test_stored_probabilities_are_within_the_bound_and_on_the_same_side_of_a_half(tmp_path):
    p = np.linspace(0, 1, 4096, dtype=np.float32).reshape(1, 16, 16, 16)
    p[0, 0, 0, :3] = np.nextafter(np.float32(0.5), [0, 1, 0.5], dtype=np.float32)
    write_maps(tmp_path / "v.json", ["liver"], p)
    found = read_maps(tmp_path / "v.json", ["liver"])["liver"]
    assert np.abs(found.quantised / STEPS - p[0]).max() <= ERROR_BOUND + 1e-7
    assert np.array_equal(found.quantised / STEPS >= 0.5, p[0] >= 0.5)
    assert found.entropy.fg_voxels == np.count_nonzero(p >= 0.5) == len(found.foreground) < FOREGROUND_VOXELS
    assert (p[0][tuple(found.foreground.T)] >= 0.5).all()
    assert isinstance(found.quantised, np.memmap)


def test_maps_are_the_sigmoid_of_the_blended_logits_class_by_class(tmp_path, volumes):
    teacher = Models().teacher("north", "liver", "spleen")
    cache(tmp_path).fill(teacher, volumes, CPU)
    image = torch.from_numpy(np.array(volumes[0].image, dtype=np.float32))[None, None]
    expected = teacher.load().class_logits(image).sigmoid()[0].numpy()
    found = cache(tmp_path).maps(teacher, volumes[0])
    for number, name in enumerate(("liver", "spleen")):
        assert found[name].quantised.shape == SHAPE
        assert np.abs(found[name].quantised / STEPS - expected[number]).max() <= ERROR_BOUND + 1e-5


def test_what_decides_the_maps_decides_the_volumes_key(volumes):
    from dataclasses import replace

    keys = {volume_key(volumes[0], TOY), volume_key(volumes[1], TOY)}
    for changes in ({"patch": (16, 16, 8)}, {"overlap": 0.25}, {"spacing_mm": (1.0, 1.0, 1.0)}, {"window_hu": (0, 1)}):
        keys.add(volume_key(volumes[0], replace(TOY, **changes)))
    assert len(keys) == 6
    assert volume_key(volumes[0], replace(TOY, name="other", local_steps=1)) in keys


def test_a_model_whose_numbers_are_not_finite_is_refused_by_name(tmp_path, volumes):
    teacher = Models().teacher("north", "liver", sureness=float("nan"))
    with pytest.raises(ConfigError, match=f"{teacher.key}.*not finite"):
        cache(tmp_path).fill(teacher, volumes, CPU)
    assert cache(tmp_path).maps(teacher, volumes[0]) is None


def test_a_model_of_other_outputs_than_its_classes_is_refused_by_name(tmp_path, volumes):
    right = Models().teacher("north", "liver", kind=SeesNothing)
    teacher = Teacher(name="north", key=right.key, classes=("liver", "spleen"), load=right.load)
    with pytest.raises(ConfigError, match="outputs: got 1"):
        cache(tmp_path).fill(teacher, volumes, CPU)
