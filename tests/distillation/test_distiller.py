"""Distillation from stored models: it converges, goes on where it was killed, and does not depend on what must not."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_federation import TOY, Models, SeesNothing, change_image, stopping_after, stored, toy_distiller, toy_volumes

from fedpartial.distillation import student
from fedpartial.distillation.entropy import SelectionRule
from fedpartial.distillation.selection import taught
from fedpartial.distillation.student import Student
from fedpartial.errors import ConfigError
from fedpartial.losses.soft import soft_bce
from fedpartial.networks.canonical import StateMismatch, load_canonical
from fedpartial.networks.universal import build_universal, universal_classes
from fedpartial.training.local_trainer import TrainingDiverged, TrainingStopped

FAST = replace(
    TOY,
    volumes_per_batch=1,
    foreground_fraction=1.0,
    network=replace(TOY.network, embedding=32, global_features=16),
    optimizer=replace(TOY.optimizer, lr=1e-2, warmup=0.1),
)
"""Learns the toy volumes in seconds; narrower class vectors leave a class of some seeds unlearnt."""
BOTH = ("liver", "spleen")


@pytest.fixture
def volumes(tmp_path):
    return toy_volumes(tmp_path / "volumes")


def network_of(distilled) -> torch.nn.Module:
    network = build_universal(FAST, seed=9, classes=distilled.classes)
    load_canonical(network, distilled.weights)
    return network.eval()


def masks(model, volume) -> torch.Tensor:
    image = torch.from_numpy(np.array(volume.image, dtype=np.float32))[None, None]
    with torch.inference_mode():
        return model.class_logits(image) >= 0


def dice(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def same_weights(a, b) -> bool:
    return a.weights.keys() == b.weights.keys() and all(torch.equal(a.weights[n], b.weights[n]) for n in a.weights)


def test_a_student_becomes_its_one_teacher_and_so_does_a_student_of_the_same_network(tmp_path, volumes):
    """The second student starts from other weights of the very network that teaches it."""
    oracle = Models().teacher("oracle", *BOTH)
    folders = {"folder": tmp_path / "maps", "preset": FAST}
    first = toy_distiller(volumes, seed=5, **folders).run([oracle], steps=60, checkpoint_dir=tmp_path / "first")
    teacher = network_of(first)
    second = toy_distiller(volumes, seed=6, **folders).run(
        [stored("itself", teacher, BOTH)], steps=60, checkpoint_dir=tmp_path / "second"
    )
    assert dice(masks(teacher, volumes[0]), masks(oracle.load(), volumes[0])) > 0.85
    assert dice(masks(network_of(second), volumes[0]), masks(teacher, volumes[0])) > 0.9
    assert second.losses[-1] < 0.2 * second.losses[0]
    assert second.seconds > 0


def test_cross_entropy_falls_to_the_entropy_of_the_teachers_map_and_no_further():
    """What a distillation can reach at best: soft BCE is lowest, and equal to the binary entropy, at the target."""
    p = torch.tensor([0.9, 0.3, 0.5]).reshape(1, 1, 3, 1, 1)
    floor = float(-(p * p.log() + (1 - p) * (1 - p).log()).mean())
    assert float(soft_bce(p.logit(), p)) == pytest.approx(floor, abs=1e-6)
    assert float(soft_bce(p.logit() + 0.1, p)) > floor


def run(volumes, tmp_path, teachers, folder="run", steps=4, **changes):
    given = {name: changes.pop(name) for name in ("start", "stop", "on_progress") if name in changes}
    distiller = toy_distiller(volumes, tmp_path / "maps", **changes)
    return distiller.run(teachers, steps=steps, checkpoint_dir=tmp_path / folder, **given)


def test_the_models_look_once_over_runs_and_processes(tmp_path, volumes):
    models = Models()
    teachers = [models.teacher("north", "liver"), models.teacher("south", "spleen")]
    assert run(volumes, tmp_path, teachers, "one").inferences == 4
    passes = dict(models.passes)
    later = run(volumes, tmp_path, teachers, "two", rule=SelectionRule(domain="all"), seed=8)
    assert (later.inferences, models.passes, sorted(models.loads)) == (0, passes, ["north", "south"])
    joined = run(volumes, tmp_path, [*teachers, models.teacher("east", "kidney", kind=SeesNothing)], "three")
    assert (joined.inferences, models.loads[2:], joined.classes) == (2, ["east"], ("liver", "spleen", "kidney"))


def test_a_changed_image_is_looked_at_again(tmp_path, volumes):
    models = Models()
    run(volumes, tmp_path, [models.teacher("north", "liver")])
    change_image(volumes[1])
    assert run(toy_again(volumes), tmp_path, [models.teacher("north", "liver")]).inferences == 1


def toy_again(volumes):
    """The same volumes opened anew: nothing of the old image is mapped."""
    return [replace(volume) for volume in volumes]


def test_the_order_in_which_models_and_volumes_come_does_not_matter(tmp_path, volumes):
    models = Models()
    teachers = [models.teacher("north", *BOTH), models.teacher("south", "spleen", sureness=2.0)]
    one = run(volumes, tmp_path, teachers, "one")
    other = run(volumes[::-1], tmp_path, teachers[::-1], "other")
    assert same_weights(one, other)
    assert one.choices == other.choices


def test_the_sure_model_teaches_and_the_empty_one_only_by_the_papers_form(tmp_path, volumes):
    models = Models()
    teachers = [
        models.teacher("empty", "spleen", kind=SeesNothing),
        models.teacher("sure", "spleen", sureness=8.0),
        models.teacher("unsure", "spleen", sureness=1.0),
    ]
    repaired = taught(run(volumes, tmp_path, teachers, "a", steps=1).choices)
    paper = taught(run(volumes, tmp_path, teachers, "b", steps=1, rule=SelectionRule(domain="all")).choices)
    assert repaired == {"spleen": {"empty": 0, "sure": 2, "unsure": 0}}
    assert paper == {"spleen": {"empty": 2, "sure": 0, "unsure": 0}}


@pytest.mark.parametrize("stopped", [False, True])
def test_a_server_that_dies_or_is_stopped_goes_on_bit_for_bit(tmp_path, volumes, monkeypatch, stopped):
    monkeypatch.setattr(student, "CHECKPOINT_STEPS", 2)
    teachers, taken = [Models().teacher("north", *BOTH)], []
    whole = run(volumes, tmp_path, teachers, "whole", steps=5)

    def watch(what, done, total, loss):
        taken.append(done)
        if not stopped and len(taken) == 4:
            raise KeyboardInterrupt

    with pytest.raises(TrainingStopped if stopped else KeyboardInterrupt):
        run(volumes, tmp_path, teachers, "died", steps=5, on_progress=watch, stop=stopping_after(4 if stopped else 99))
    before, taken[:] = len(taken), [0] * 9
    continued = run(volumes, tmp_path, teachers, "died", steps=5, on_progress=watch)
    assert len(taken) - 9 == (5 - before if stopped else 3)
    assert same_weights(continued, whole)
    assert continued.losses == whole.losses
    assert continued.seconds > 0


def test_a_finished_distillation_gives_its_result_again_without_a_step(tmp_path, volumes, monkeypatch):
    teachers = [Models().teacher("north", "liver")]
    first = run(volumes, tmp_path, teachers)
    monkeypatch.setattr(Student, "_step", lambda *_: pytest.fail("trained again"))
    assert same_weights(run(volumes, tmp_path, teachers), first)


@pytest.mark.parametrize("change", ["steps", "seed", "teacher", "rule", "start", "embeddings", "damaged"])
def test_the_state_of_another_distillation_is_not_taken_over(tmp_path, volumes, change):
    models, given = Models(), {"steps": 2}
    teachers = [models.teacher("north", "liver")]
    first = run(volumes, tmp_path, teachers, **given)
    if change == "teacher":
        teachers = [models.teacher("north", "liver", version=2)]
    elif change == "damaged":
        (tmp_path / "run" / "distillation.safetensors").write_bytes(b"\x08")
    else:
        vectors = {"liver": np.full(8, 0.5, dtype=np.float32)}
        values = {"steps": 3, "seed": 4, "rule": SelectionRule(form="binary"), "start": first.weights}
        given |= {change: {**values, "embeddings": vectors}[change]}
    done = []
    run(volumes, tmp_path, teachers, **given, on_progress=lambda what, n, total, loss: done.append(what))
    assert done.count("distillation") == given["steps"]


def test_a_warm_start_takes_new_classes_in_and_drops_those_that_nobody_teaches(tmp_path, volumes):
    models = Models()
    first = run(volumes, tmp_path, [models.teacher("north", "liver")])
    teachers = [models.teacher("south", "spleen")]
    warm = run(volumes, tmp_path, teachers, "warm", steps=1, start=first.weights)
    cold = run(volumes, tmp_path, teachers, "cold", steps=1)
    assert universal_classes(warm.weights) == warm.classes == ("spleen",)
    assert not same_weights(warm, cold)
    lr = TOY.optimizer.lr
    assert all((warm.weights[n] - first.weights[n]).abs().max() <= 1.1 * lr for n in warm.weights if n in first.weights)


def test_a_start_of_another_network_is_refused(tmp_path, volumes):
    other = {"extractor.nothing": torch.zeros(1)}
    with pytest.raises(StateMismatch):
        run(volumes, tmp_path, [Models().teacher("north", "liver")], start=other)


def test_the_learning_rate_falls_over_the_steps_of_the_distillation(tmp_path, volumes, monkeypatch):
    rates, step = [], Student._descend
    monkeypatch.setattr(Student, "_descend", lambda self, loss: (rates.append(self.optimizer.lr), step(self, loss)))
    preset = replace(TOY, optimizer=replace(TOY.optimizer, schedule="cosine", min_lr=0.0))
    run(volumes, tmp_path, [Models().teacher("north", "liver")], steps=4, preset=preset)
    assert rates == pytest.approx([TOY.optimizer.lr * (1 + math.cos(math.pi * step / 4)) / 2 for step in range(4)])


def test_stop_ends_within_one_window_and_one_step(tmp_path, volumes):
    models = Models()
    with pytest.raises(TrainingStopped, match="looked"):
        run(volumes, tmp_path, [models.teacher("north", "liver")], stop=stopping_after(2))
    assert models.passes["north"] == 1
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_ends_the_distillation(tmp_path, volumes, monkeypatch):
    monkeypatch.setattr(student, "soft_dice", lambda logits, target, has: logits.sum() * float("nan"))
    with pytest.raises(TrainingDiverged, match="step 0"):
        run(volumes, tmp_path, [Models().teacher("north", "liver")])


@pytest.mark.parametrize(
    ("names", "classes", "message"),
    [
        ((), ("liver",), "at least one model"),
        (("a", "a"), ("liver",), "one of each site"),
        (("a",), ("brain",), "classes of a"),
        (("a",), (), "classes of a"),
    ],
)
def test_models_that_cannot_teach_are_refused(tmp_path, volumes, names, classes, message):
    with pytest.raises(ConfigError, match=message):
        run(volumes, tmp_path, [Models().teacher(name, *classes) for name in names])


@pytest.mark.parametrize("steps", [0, True, 1.5])
def test_a_wrong_number_of_steps_is_refused(tmp_path, volumes, steps):
    with pytest.raises(ConfigError, match="distil_steps"):
        run(volumes, tmp_path, [Models().teacher("north", "liver")], steps=steps)
