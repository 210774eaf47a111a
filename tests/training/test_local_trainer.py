"""One round at one site: a function of weights, round number and the state on disk, and of nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor

from federation import TINY
from fedpartial.data.loader import StepDataset
from fedpartial.methods.base import LossTerms
from fedpartial.methods.condistfl import ConDistFL
from fedpartial.methods.fedavg import FedAvg
from fedpartial.networks.build import build_network
from fedpartial.networks.canonical import StateMismatch, canonical_state, load_canonical
from fedpartial.training.local_trainer import TrainingDiverged, TrainingStopped
from fedpartial.training.optimizer import NesterovSGD
from fedpartial.training.precision import Precision
from fedpartial.training.schedule import Schedule

ROUNDS = 3


def go_on() -> bool:
    return False


def assert_equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    """Bit for bit, by name."""
    assert list(a) == list(b)
    assert not [name for name in a if not torch.equal(a[name], b[name])]


def differ(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return any(not torch.equal(a[name], b[name]) for name in a)


def chain(trainer_of_round, weights: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """Updates of consecutive rounds of a federation of one site."""
    updates = []
    for number in range(ROUNDS):
        updates.append(trainer_of_round(number).run_round(weights, number, go_on).update)
        weights = {name: tensor + updates[-1][name] for name, tensor in weights.items()}
    return updates


@dataclass
class Spy:
    """A method that keeps what it was asked, and multiplies its loss."""

    inner: object = field(default_factory=ConDistFL)
    factors: tuple[float, ...] = ()
    calls: list[dict] = field(default_factory=list)

    def needs_teacher(self, context) -> bool:
        return self.inner.needs_teacher(context)

    def needs_reference(self) -> bool:
        return self.inner.needs_reference()

    def passes(self) -> int:
        return self.inner.passes()

    def needs_heads(self) -> bool:
        return self.inner.needs_heads()

    def loss(self, outputs, teacher_logits, labels, labelled, context) -> LossTerms:
        self.calls.append({"outputs": outputs, "teacher": teacher_logits, "context": context})
        terms = self.inner.loss(outputs, teacher_logits, labels, labelled, context)
        factor = self.factors[len(self.calls) - 1] if len(self.calls) <= len(self.factors) else 1.0
        return LossTerms(total=terms.total * factor, parts=terms.parts)


# --- determinism ------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_update(make_trainer, weights, tmp_path):
    torch.manual_seed(1)
    first = make_trainer(state_dir=tmp_path / "a").run_round(weights, 0, go_on)
    torch.manual_seed(2)
    second = make_trainer(state_dir=tmp_path / "b").run_round(weights, 0, go_on)
    assert_equal(first.update, second.update)
    assert {**first.metrics, "seconds": 0} == {**second.metrics, "seconds": 0}


@pytest.mark.parametrize("change", [{"seed": 1}, {"site": "elsewhere"}])
def test_another_seed_or_site_sees_other_patches(make_trainer, weights, tmp_path, change):
    first = make_trainer(state_dir=tmp_path / "a").run_round(weights, 0, go_on)
    second = make_trainer(state_dir=tmp_path / "b", **change).run_round(weights, 0, go_on)
    assert differ(first.update, second.update)


def test_the_round_number_decides_patches_and_rate(make_trainer, weights, tmp_path):
    rounds = [make_trainer(state_dir=tmp_path / str(r)).run_round(weights, r, go_on).update for r in (0, 1)]
    assert differ(*rounds)


def test_one_process_and_a_new_one_every_round_give_the_same(make_trainer, weights, tmp_path):
    lasting = make_trainer(state_dir=tmp_path / "lasting")
    together = chain(lambda _: lasting, weights)
    apart = chain(lambda _: make_trainer(state_dir=tmp_path / "apart"), weights)
    for number in range(ROUNDS):
        assert_equal(together[number], apart[number])


def test_the_initial_weights_of_the_trainer_do_not_matter(make_trainer, weights, tmp_path):
    """Only the weights that the server sends do; nothing of an earlier round or of the build remains."""
    used = make_trainer(state_dir=tmp_path / "a")
    load_canonical(used.network, {name: torch.full_like(t, 3.0) for name, t in weights.items()})
    assert_equal(
        used.run_round(weights, 0, go_on).update,
        make_trainer(state_dir=tmp_path / "b").run_round(weights, 0, go_on).update,
    )


def test_momentum_comes_back_from_disk(make_trainer, weights, tmp_path):
    """A site that lost its state goes another way; without momentum in the optimiser there is none to lose."""
    plain = replace(TINY, optimizer=replace(TINY.optimizer, momentum=0.0))
    for preset, lost_matters in ((TINY, True), (plain, False)):
        kept = make_trainer(preset=preset, state_dir=tmp_path / preset.optimizer.momentum.hex())
        kept.run_round(weights, 0, go_on)
        lost = make_trainer(preset=preset, state_dir=tmp_path / "empty")
        updates = [trainer.run_round(weights, 1, go_on).update for trainer in (kept, lost)]
        assert differ(*updates) is lost_matters
        for path in (tmp_path / "empty").iterdir():
            path.unlink()


@pytest.mark.parametrize("again", ["the same process", "a new process"])
def test_a_round_that_is_asked_for_again_gives_the_same_update(make_trainer, weights, again):
    trainer = make_trainer()
    trainer.run_round(weights, 0, go_on)
    first = trainer.run_round(weights, 1, go_on).update
    trainer = trainer if again == "the same process" else make_trainer()
    assert_equal(trainer.run_round(weights, 1, go_on).update, first)


def test_a_round_asked_for_again_leaves_the_following_one_as_it_was(make_trainer, weights, tmp_path):
    straight, repeated = (make_trainer(state_dir=tmp_path / name) for name in ("a", "b"))
    expected = [straight.run_round(weights, r, go_on).update for r in (0, 1, 2)]
    found = [repeated.run_round(weights, r, go_on).update for r in (0, 1, 1, 2)]
    assert_equal(found[-1], expected[-1])


def test_bfloat16_trains_and_reports_float32(make_trainer, weights, tmp_path):
    half = make_trainer(precision=Precision(device=torch.device("cpu"), dtype=torch.bfloat16))
    result = half.run_round(weights, 0, go_on)
    assert {tensor.dtype for tensor in result.update.values()} == {torch.float32}
    assert differ(result.update, make_trainer(state_dir=tmp_path / "b").run_round(weights, 0, go_on).update)


# --- what is sent -----------------------------------------------------------------------------------


def test_the_update_is_local_minus_global_weights(make_trainer, weights):
    trainer = make_trainer()
    before = {name: tensor.clone() for name, tensor in weights.items()}
    result = trainer.run_round(weights, 0, go_on)
    local = canonical_state(trainer.network)
    assert_equal(result.update, {name: local[name] - before[name] for name in local})
    assert_equal(trainer.local_weights(), local)
    assert_equal(weights, before)
    assert differ(local, before)


def test_numbers_of_the_round(make_trainer, weights):
    steps = []
    spy = Spy()
    trainer = make_trainer(method=spy, on_step=lambda step, loss: steps.append((step, loss)))
    result = trainer.run_round(weights, 0, go_on)
    assert result.num_steps == len(spy.calls) == 2
    assert [step for step, _ in steps] == [1, 2]
    numbers = {"loss", "dice", "ce", "condist", "seconds", "optimizer_round", "tensors_taken"}
    assert set(result.metrics) == numbers
    assert result.metrics["tensors_taken"] == len(weights)
    assert result.metrics["loss"] == steps[-1][1], "the last running mean is the mean of the round"
    expected = result.metrics["dice"] + result.metrics["ce"] + 0.01 * result.metrics["condist"]
    assert result.metrics["loss"] == pytest.approx(expected, rel=1e-6)


def test_the_method_hears_the_servers_round_number(make_trainer, weights):
    spy = Spy()
    make_trainer(method=spy).run_round(weights, 2, go_on)
    assert {(c["context"].round_number, c["context"].num_rounds) for c in spy.calls} == {(2, 3)}


def test_the_learning_rate_follows_the_global_step(make_trainer, weights, monkeypatch):
    rates, original = [], NesterovSGD.step

    def note(optimizer):
        rates.append(optimizer.lr)
        original(optimizer)

    monkeypatch.setattr(NesterovSGD, "step", note)
    trainer = make_trainer()
    trainer.run_round(weights, 2, go_on)
    trainer.run_round(weights, 0, go_on)
    schedule = Schedule(num_rounds=3, local_steps=2)
    assert rates == [schedule.learning_rate(TINY.optimizer, step) for step in (4, 5, 0, 1)]
    assert rates[2] == TINY.optimizer.lr


def test_without_a_learning_rate_nothing_moves(make_trainer, weights):
    still = replace(TINY, optimizer=replace(TINY.optimizer, lr=0.0, min_lr=0.0))
    update = make_trainer(preset=still).run_round(weights, 0, go_on).update
    assert not any(tensor.any() for tensor in update.values())


def test_gradients_are_clipped(make_trainer, weights):
    """One step of plain SGD moves the weights by at most lr * (clip_norm + weight_decay * |w|)."""
    optimizer = replace(TINY.optimizer, lr=1.0, min_lr=1.0, momentum=0.0, weight_decay=0.0, clip_norm=1e-3)
    trainer = make_trainer(preset=replace(TINY, optimizer=optimizer), schedule=Schedule(num_rounds=1, local_steps=1))
    update = trainer.run_round(weights, 0, go_on).update
    length = torch.cat([tensor.flatten() for tensor in update.values()]).double().norm()
    assert length == pytest.approx(1e-3, rel=1e-2)


# --- the teacher ------------------------------------------------------------------------------------


def test_the_teacher_is_the_global_model_of_the_rounds_start(make_trainer, weights):
    spy = Spy()
    trainer = make_trainer(method=spy)
    other = canonical_state(build_network(TINY, seed=99))
    trainer.run_round(other, 0, go_on)
    trainer.run_round(weights, 1, go_on)
    global_model = build_network(TINY, seed=0).eval()
    steps = StepDataset(trainer.sampler, 0, 4)
    for step, (call, model) in enumerate(zip(spy.calls, (other, other, weights, weights), strict=True)):
        load_canonical(global_model, model)
        with torch.no_grad():
            expected = global_model(steps[step].image)
        torch.testing.assert_close(call["teacher"], expected, rtol=1e-4, atol=1e-4)
        assert not call["teacher"].requires_grad
        assert call["outputs"][0].requires_grad
    assert all(parameter.grad is None for parameter in trainer._teacher.parameters())
    assert_equal(canonical_state(trainer._teacher), weights)


def test_a_method_without_a_teacher_gets_none(make_trainer, weights):
    spy = Spy(inner=FedAvg())
    trainer = make_trainer(method=spy)
    trainer.run_round(weights, 0, go_on)
    assert [call["teacher"] for call in spy.calls] == [None, None]


# --- stopping and failing ---------------------------------------------------------------------------


@pytest.mark.parametrize("after", [0, 1, 3])
def test_stop_is_honoured_within_one_step_and_nothing_is_saved(make_trainer, weights, tmp_path, after):
    done = []
    trainer = make_trainer(schedule=Schedule(num_rounds=1, local_steps=5), on_step=lambda step, _: done.append(step))
    with pytest.raises(TrainingStopped, match=f"before step {after + 1} of round 0"):
        trainer.run_round(weights, 0, lambda: len(done) >= after)
    assert len(done) == after
    assert not (tmp_path / "state").exists()


def test_a_stopped_round_can_be_done_again(make_trainer, weights, tmp_path):
    trainer = make_trainer()
    answers = iter([False, True])
    with pytest.raises(TrainingStopped):
        trainer.run_round(weights, 0, lambda: next(answers))
    expected = make_trainer(state_dir=tmp_path / "other").run_round(weights, 0, go_on).update
    assert_equal(trainer.run_round(weights, 0, go_on).update, expected)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("step", [0, 1])
def test_a_loss_that_is_not_finite_is_refused_and_nothing_saved(make_trainer, weights, tmp_path, bad, step):
    trainer = make_trainer(method=Spy(factors=(1.0,) * step + (bad,)))
    with pytest.raises(TrainingDiverged, match=f"loss is .* at step {step} of round 0"):
        trainer.run_round(weights, 0, go_on)
    assert not (tmp_path / "state").exists()


class InfiniteGradient(Spy):
    """The loss is finite, its gradient is not (the root of 0)."""

    def loss(self, outputs, teacher_logits, labels, labelled, context) -> LossTerms:
        terms = super().loss(outputs, teacher_logits, labels, labelled, context)
        return LossTerms(total=terms.total + (0.0 * outputs[0]).abs().sum().sqrt(), parts=terms.parts)


def test_weights_that_are_not_finite_are_refused_and_nothing_saved(make_trainer, weights, tmp_path):
    """With one step there is no later loss that would notice."""
    trainer = make_trainer(method=InfiniteGradient(), schedule=Schedule(num_rounds=1, local_steps=1))
    with pytest.raises(TrainingDiverged, match="not finite after training"):
        trainer.run_round(weights, 0, go_on)
    assert not (tmp_path / "state").exists()


def test_a_global_model_with_nan_does_not_train(make_trainer, weights, tmp_path):
    name = next(iter(weights))
    weights[name][0] = float("nan")
    with pytest.raises(TrainingDiverged):
        make_trainer().run_round(weights, 0, go_on)
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("how", ["missing", "extra", "shape"])
def test_weights_that_do_not_fit_are_refused(make_trainer, weights, tmp_path, how):
    last = list(weights)[-1]
    if how == "missing":
        del weights[last]
    else:
        weights["surplus" if how == "extra" else last] = torch.zeros(3, 3)
    with pytest.raises(StateMismatch, match="surplus" if how == "extra" else last):
        make_trainer().run_round(weights, 0, go_on)
    assert not (tmp_path / "state").exists()
