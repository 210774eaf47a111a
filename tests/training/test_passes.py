"""Methods with several passes for one batch, each with an objective and an optimiser step of its own."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
import torch
from test_local_trainer import Spy, assert_equal, differ, go_on

from federation import TINY
from fedpartial.data.loader import StepDataset
from fedpartial.data.store import prepare_cases
from fedpartial.errors import ConfigError
from fedpartial.methods.fedavg import FedAvg
from fedpartial.methods.fedmenu import FedMenu
from fedpartial.networks.build import build_network
from fedpartial.networks.canonical import canonical_state, load_canonical
from fedpartial.networks.menu import AUXILIARY, WHOLE
from fedpartial.presets import SIDED_ORGANS, MenuConfig
from fedpartial.training.optimizer import build_optimizer
from fedpartial.training.schedule import Schedule

TINY_MENU = replace(TINY, name="tiny_menu", label_space=SIDED_ORGANS, network=MenuConfig(channels=(2, 4)))
ONE_STEP = Schedule(num_rounds=1, local_steps=1)


@dataclass
class Passes(Spy):
    """FedAvg in so many passes; with ``factors`` each has a loss of its own."""

    inner: object = field(default_factory=FedAvg)
    number: int = 2

    def passes(self) -> int:
        return self.number


def watched(trainer, monkeypatch) -> list[tuple[torch.Tensor, torch.Tensor, int]]:
    """Gives the trainer's DynUNet a train_pass; the list of what it is asked."""
    asked = []

    def train_pass(image, labelled, pass_number):
        asked.append((image, labelled, pass_number))
        return (trainer.network(image),)

    monkeypatch.setattr(trainer.network, "train_pass", train_pass, raising=False)
    return asked


def test_every_pass_sees_the_same_batch_and_its_number(make_trainer, weights, monkeypatch):
    method = Passes()
    trainer = make_trainer(method=method, schedule=Schedule(num_rounds=1, local_steps=2))
    asked = watched(trainer, monkeypatch)
    trainer.run_round(weights, 0, go_on)
    assert [number for *_, number in asked] == [0, 1, 0, 1]
    assert [call["context"].pass_number for call in method.calls] == [0, 1, 0, 1]
    images = [image for image, *_ in asked]
    assert torch.equal(images[0], images[1])
    assert torch.equal(images[2], images[3])
    assert not torch.equal(images[1], images[2])
    assert all(labelled.dtype == torch.bool and labelled.shape[1] == 8 for _, labelled, _ in asked)


def test_every_pass_has_an_optimiser_step_of_its_own(make_trainer, weights, monkeypatch):
    """The second pass starts from the weights and the momentum that the first one left."""
    method = Passes(factors=(1.0, 0.5))
    trainer = make_trainer(method=method, schedule=ONE_STEP)
    watched(trainer, monkeypatch)
    found = trainer.run_round(weights, 0, go_on)

    network = build_network(TINY, seed=0)
    load_canonical(network, weights)
    optimizer, batch = (
        build_optimizer(dict(network.named_parameters()), TINY.optimizer),
        StepDataset(trainer.sampler, 0, 1)[0],
    )
    image = batch.image.to(memory_format=torch.channels_last_3d)
    losses = []
    for factor in (1.0, 0.5):
        terms = FedAvg().loss((network(image),), None, batch.label, batch.labelled, trainer.context(0))
        optimizer.zero_grad()
        (factor * terms.total).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), TINY.optimizer.clip_norm)
        optimizer.step()
        losses.append((factor * terms.total.item(), terms.parts["dice"].item()))
    local = canonical_state(network)
    for name, tensor in found.update.items():
        torch.testing.assert_close(weights[name] + tensor, local[name], rtol=1e-5, atol=1e-6)
    assert found.metrics["loss"] == pytest.approx(sum(loss for loss, _ in losses), rel=1e-5)
    assert found.metrics["dice"] == pytest.approx(sum(dice for _, dice in losses), rel=1e-5)
    assert found.num_steps == 1


def test_one_pass_asks_the_network_itself(make_trainer, weights, monkeypatch, tmp_path):
    trainer = make_trainer(method=Passes(number=1), schedule=ONE_STEP)
    asked = watched(trainer, monkeypatch)
    plain = make_trainer(method=FedAvg(), schedule=ONE_STEP, state_dir=tmp_path / "plain")
    assert_equal(trainer.run_round(weights, 0, go_on).update, plain.run_round(weights, 0, go_on).update)
    assert asked == []


def test_fedmenu_takes_both_passes_and_leaves_other_organs_encoders(make_trainer, tiny_sites, monkeypatch):
    """Exactly zero: neither a gradient nor weight decay nor momentum."""
    cases = prepare_cases(tiny_sites["liver"], TINY_MENU).training
    trainer = make_trainer(preset=TINY_MENU, method=FedMenu(), cases=cases)
    numbers, train_pass = [], trainer.network.train_pass
    monkeypatch.setattr(
        trainer.network, "train_pass", lambda *given: (numbers.append(given[-1]), train_pass(*given))[1]
    )
    weights = canonical_state(build_network(TINY_MENU, seed=7))
    first = trainer.run_round(weights, 0, go_on)
    assert numbers == [WHOLE, AUXILIARY] * 2
    assert {"dice", "ce", "exclusion_dice", "exclusion_ce", "auxiliary"} <= set(first.metrics)
    for result in (first, trainer.run_round(weights, 1, go_on)):
        moved = {name.split(".")[1] for name, t in result.update.items() if "encoders." in name and t.any()}
        assert moved == {"liver"}
        assert all(
            any(t.any() for n, t in result.update.items() if n.startswith(part)) for part in ("decoder.", "agd.")
        )
    assert differ(first.update, result.update)


def test_a_method_of_two_passes_needs_a_network_that_has_them(make_trainer, weights):
    trainer = make_trainer(method=FedMenu())
    with pytest.raises(ConfigError, match="MENU-Net") as caught:
        trainer.run_round(weights, 0, go_on)
    assert caught.value.field == "preset"
