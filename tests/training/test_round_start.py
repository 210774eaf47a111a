"""What a round starts from: the global model or the site's own weights, and the reference of the proximal term."""

from __future__ import annotations

import pytest
from test_local_trainer import ROUNDS, Spy, assert_equal, differ, go_on
from torch import Tensor

from federation import TINY
from fedpartial.methods.condistfl import ConDistFL
from fedpartial.methods.fedavg import FedAvg
from fedpartial.methods.fedprox import FedProx
from fedpartial.networks.build import build_network
from fedpartial.networks.canonical import canonical_state
from fedpartial.training.schedule import Schedule

# --- starting from the site's own weights -----------------------------------------------------------


def own_way(trainer_of_round, weights: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """Local models of a site that is given the same global model in every round."""
    models = []
    for number in range(ROUNDS):
        trainer = trainer_of_round(number)
        trainer.run_round(weights, number, go_on)
        models.append(trainer.local_weights())
    return models


def handed_on(trainer, weights: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """Local models of a site that is given its last one as the global model."""
    models = [weights]
    for number in range(ROUNDS):
        trainer.run_round(models[-1], number, go_on)
        models.append(trainer.local_weights())
    return models[1:]


@pytest.mark.parametrize("lasting", [True, False], ids=["one process", "a new process every round"])
def test_from_its_own_weights_a_site_goes_its_own_way(make_trainer, weights, tmp_path, lasting):
    """With a method that does not look at the global model, that is a model handed on from round to round."""
    own = {"method": FedAvg(), "start_from": "local", "state_dir": tmp_path / "own"}
    kept = make_trainer(**own)
    found = own_way(lambda _: kept if lasting else make_trainer(**own), weights)
    expected = handed_on(make_trainer(method=FedAvg(), state_dir=tmp_path / "given"), weights)
    for ours, theirs in zip(found, expected, strict=True):
        assert_equal(ours, theirs)
    assert differ(found[0], found[1])


def test_from_its_own_weights_the_update_is_still_the_difference_to_the_global_model(make_trainer, weights):
    trainer = make_trainer(start_from="local")
    for number in range(2):
        update = trainer.run_round(weights, number, go_on).update
        local = trainer.local_weights()
        assert_equal(update, {name: local[name] - weights[name] for name in local})


def test_the_first_round_starts_from_the_global_model_in_both_ways(make_trainer, weights, tmp_path):
    updates = [
        make_trainer(start_from=start, state_dir=tmp_path / start).run_round(weights, 0, go_on).update
        for start in ("global", "local")
    ]
    assert_equal(*updates)


def test_a_round_from_its_own_weights_can_be_asked_for_again(make_trainer, weights):
    """It starts from the state before that round, not from what the first attempt left."""
    trainer = make_trainer(start_from="local")
    trainer.run_round(weights, 0, go_on)
    first, second = (trainer.run_round(weights, 1, go_on).update for _ in range(2))
    assert_equal(first, second)


def test_what_a_round_starts_from(make_trainer, weights, tmp_path):
    for start in ("global", "local"):
        trainer = make_trainer(start_from=start, state_dir=tmp_path / start)
        assert_equal(dict(trainer.starting_weights(weights, 0)), weights)
        trainer.run_round(weights, 0, go_on)
        own = trainer.local_weights()
        found = trainer.starting_weights(weights, 1)
        assert_equal({name: found[name] for name in weights}, own if start == "local" else weights)
        assert len(found) == len(weights)
        assert_equal(dict(trainer.starting_weights(weights, 0)), weights)


def test_only_a_site_that_starts_from_its_own_weights_keeps_them(make_trainer, weights, tmp_path):
    """For the others they would double the state for nothing."""
    sizes = []
    for start in ("global", "local"):
        make_trainer(start_from=start, state_dir=tmp_path / start).run_round(weights, 0, go_on)
        (file,) = (tmp_path / start).iterdir()
        sizes.append(file.stat().st_size)
    assert sizes[1] - sizes[0] >= sum(tensor.nbytes for tensor in weights.values())


def test_the_schedule_of_a_pool_has_the_steps_of_its_sites_and_the_same_ends():
    schedule = Schedule(num_rounds=3, local_steps=2)
    pooled = schedule.pooled(4)
    assert pooled == Schedule(num_rounds=3, local_steps=8, sites=4)
    assert schedule.pooled(1) == schedule
    rates = [s.learning_rate(TINY.optimizer, step) for s in (schedule, pooled) for step in (0, s.total_steps)]
    assert rates == [TINY.optimizer.lr, TINY.optimizer.min_lr] * 2
    assert pooled.learning_rate(TINY.optimizer, 12) == pytest.approx(schedule.learning_rate(TINY.optimizer, 3))


# --- the reference ------------------------------------------------------------------------------------


def test_the_reference_is_the_global_model_of_the_rounds_start_and_stays(make_trainer, weights):
    spy = Spy(inner=FedProx())
    trainer = make_trainer(method=spy)
    other = canonical_state(build_network(TINY, seed=99))
    trainer.run_round(other, 0, go_on)
    trainer.run_round(weights, 1, go_on)
    names = [name for name, _ in trainer.network.named_parameters()]
    for call, model in zip(spy.calls, (other, other, weights, weights), strict=True):
        assert_equal(dict(zip(names, call["context"].reference, strict=True)), {name: model[name] for name in names})
        assert not any(tensor.requires_grad for tensor in call["context"].reference)
        assert all(p is q for p, q in zip(call["context"].parameters, trainer.network.parameters(), strict=True))


def test_the_proximal_part_is_nothing_in_the_first_step_and_reported(make_trainer, weights):
    trainer = make_trainer(method=FedProx(mu=1.0), schedule=Schedule(num_rounds=1, local_steps=1))
    assert trainer.run_round(weights, 0, go_on).metrics["proximal"] == 0
    trainer = make_trainer(method=FedProx(mu=1.0), state_dir=trainer.state_dir / "two")
    assert trainer.run_round(weights, 0, go_on).metrics["proximal"] > 0


@pytest.mark.parametrize("method", [FedAvg(), ConDistFL(), FedProx(mu=0.0)], ids=lambda m: type(m).__name__)
def test_a_method_that_does_not_look_at_the_reference_gets_none(make_trainer, weights, method):
    spy = Spy(inner=method)
    make_trainer(method=spy).run_round(weights, 0, go_on)
    assert [call["context"].reference for call in spy.calls] == [(), ()]
