"""Costs that must not grow unnoticed: counts of one run (cost_counter.py), the same on every machine, never seconds.

BUDGETS has what a step cost when somebody last looked. A step that costs more or much less fails; where that is on
purpose, the message has the new line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_hospital import store_arrays

from cost_counter import Cost, CostCounter, allocated, counted
from federation import TINY
from fedpartial.data.sampler import PatchSampler
from fedpartial.data.stored_case import StoredCase
from fedpartial.labels import LabelSpace, Organ
from fedpartial.methods.base import Method, RoundContext
from fedpartial.methods.condistfl import ConDistFL
from fedpartial.methods.fedavg import FedAvg
from fedpartial.methods.fedmenu import FedMenu
from fedpartial.methods.margexc import MargExc
from fedpartial.methods.mmds import Mmds
from fedpartial.methods.segviz import SegViz
from fedpartial.networks.canonical import canonical_state
from fedpartial.presets import Preset
from fedpartial.server.aggregation import weighted_mean
from fedpartial.training.local_trainer import LocalTrainer
from fedpartial.training.optimizer import build_optimizer
from fedpartial.training.precision import Precision
from fedpartial.training.schedule import Schedule

BUDGETS = {
    "FedAvg": Cost(operations=596, flops=142442496, moved=32052925, peak=2901516),
    "ConDistFL": Cost(operations=877, flops=190513152, moved=56349984, peak=3425808),
    "MargExc": Cost(operations=973, flops=142442496, moved=56027163, peak=3982512),
}
"""Of one step of the preset TINY, float32, one case of liver and spleen."""
STEPS = {"FedAvg": FedAvg(), "ConDistFL": ConDistFL(), "MargExc": MargExc()}
MOST, LEAST = 1.1, 0.8
"""A count may be so many times its budget."""
FEW, MANY, SLACK = 8, 64, 1.3
CPU = Precision(device=torch.device("cpu"), dtype=torch.float32)
VOLUME = (24, 24, 24)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Slabs are larger with more threads, and so fewer operations."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def step(tmp_path: Path) -> Callable[[Method, Preset], CostCounter]:
    """The counter of one step of a site, its patches included; the step before it has made what stays."""
    label = np.zeros(VOLUME, np.uint8)
    label[4:12, 4:12, 4:12], label[14:20, 14:20, 14:20] = 1, 3
    image = np.random.default_rng(0).standard_normal(VOLUME, dtype=np.float32)
    case = store_arrays(tmp_path / "case", image, label, ("liver", "spleen"))

    def run(method: Method, preset: Preset = TINY) -> CostCounter:
        trainer = LocalTrainer(
            preset=preset,
            method=method,
            cases=[case],
            site="here",
            seed=0,
            schedule=Schedule(num_rounds=3, local_steps=2),
            precision=CPU,
            state_dir=tmp_path / "state",
        )
        weights, context = canonical_state(trainer.network), trainer.context(1)
        teacher = trainer._load_teacher(weights) if method.needs_teacher(context) else None
        optimizer = build_optimizer(dict(trainer.network.named_parameters()), preset.optimizer)
        scaler = trainer.fresh_scaler()
        trainer.network.train()

        def take(number: int) -> None:
            given = (range(number, number + 1), context, optimizer, scaler, lambda: False)
            trainer.run_steps(*given, learning_rate=lambda _: 0.01, teacher=teacher)

        take(0)
        return counted(lambda: take(1))

    return run


def test_a_small_case_counts_as_by_hand():
    def work() -> None:
        a = torch.ones(1000)
        b = a + 1
        del a
        c = b.view(10, 100) * 2  # 4000 bytes written; read and written; read and written
        torch.ones(2, 3) @ torch.ones(3, 4) + c[0, 0]  # 24 + 48, the product 24 + 48 + 32, the sum 32 + 4 + 32

    cost = counted(work).cost
    assert cost == Cost(operations=7, flops=2 * 2 * 3 * 4, moved=4000 + 2 * 8000 + 72 + 104 + 68, peak=8000 + 104)


@pytest.mark.parametrize("name", STEPS)
def test_a_step_keeps_its_budget(step, name):
    counter = step(STEPS[name])
    found, budget = vars(counter.cost), vars(BUDGETS[name])
    wrong = {k: found[k] for k in found if not LEAST * budget[k] <= found[k] <= MOST * budget[k]}
    largest = ", ".join(f"{operation} {size:,}" for operation, size in counter.by_operation.most_common(5))
    assert not wrong, (
        f"a step of {name} costs {found}, the budget is {budget} ({LEAST} to {MOST} times it); most bytes: {largest}. "
        f'If this is meant: "{name}": {counter.cost} in BUDGETS, and say why in the commit'
    )


def test_counts_are_the_same_every_time(step):
    assert step(ConDistFL()).cost == step(ConDistFL()).cost


def test_a_step_of_twice_the_batch_costs_at_most_twice(step):
    one, two = (step(ConDistFL(), replace(TINY, patches_per_volume=n)).cost for n in (1, 2))
    assert two.flops == 2 * one.flops
    assert two.operations <= 2 * one.operations
    assert 1.5 * one.moved <= two.moved <= 2.2 * one.moved
    assert two.peak <= 2.2 * one.peak


# --- classes --------------------------------------------------------------------------------------------------------


def loss_cost(method: Method, classes: int, heads: tuple[int, ...] = (), length: int = 8) -> Cost:
    """Value and gradient of the logits of two patches of length x 8 x 8 voxels; organs with a lesion each, the first
    half annotated.

    heads: channels of an annotated class's own output; () for a joint one of all channels.
    """
    space = LabelSpace(organs=tuple(Organ(name=f"o{i}", lesions=(f"l{i}",)) for i in range(classes // 2)))
    own, shape = space.classes[: classes // 2], (length, 8, 8)
    labelled = torch.from_numpy(space.labelled_mask(own)).repeat(2, 1)
    labels = (torch.arange(2 * length * 64) % (classes // 2 + 1)).view(2, *shape)
    outputs = (len(own), *heads[1:]) if heads else (space.num_channels,)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, *outputs, *shape, generator=generator).requires_grad_()
    teacher = torch.randn(2, space.num_channels, *shape, generator=generator)
    context = RoundContext(
        round_number=1,
        num_rounds=2,
        groups=torch.from_numpy(space.group_matrix()),
        head_channels=tuple(space.index(name) for name in own),
    )
    taught = teacher if method.needs_teacher(context) else None
    return counted(lambda: method.loss((logits,), taught, labels, labelled, context).total.backward()).cost


LOSSES = {
    "FedAvg": (FedAvg(), ()),
    "ConDistFL": (ConDistFL(), ()),
    "MargExc": (MargExc(), ()),
    "FedMenu": (FedMenu(), ()),
    "Mmds": (Mmds(), (1,)),
    "SegViz": (SegViz(), (1, 2)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_grows_no_faster_than_the_classes(name):
    method, heads = LOSSES[name]
    few, many = loss_cost(method, FEW, heads), loss_cost(method, MANY, heads)
    for count, least in vars(few).items():
        assert vars(many)[count] <= SLACK * MANY / FEW * least, (count, few, many)


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_grows_no_faster_than_the_voxels(name):
    method, heads = LOSSES[name]
    few, many = (vars(loss_cost(method, FEW, heads, length)) for length in (64, 512))
    for count in ("flops", "moved", "peak"):
        assert many[count] <= 1.05 * 8 * few[count], (count, few, many)


# --- NumPy: patches, means ------------------------------------------------------------------------------------------


class Watched(np.ndarray):
    """An array that counts the bytes that are read of it by indices."""

    read = 0

    def __getitem__(self, item):
        found = np.asarray(self)[item]
        Watched.read += found.nbytes
        return found


class WatchedCase(StoredCase):
    @property
    def image(self) -> np.ndarray:
        return super().image.view(Watched)

    @property
    def label(self) -> np.ndarray:
        return super().label.view(Watched)


def patch_cost(folder: Path, edge: int, cases: int, augmentation: str) -> tuple[int, int]:
    """(bytes read of image and label, bytes allocated) of a batch from volumes of this edge."""
    folder.mkdir()
    shape, stored = (edge, edge, edge), []
    for number in range(cases):
        label = np.zeros(shape, np.uint8)
        label[edge // 2 - 2 : edge // 2 + 2, edge // 2 - 2 : edge // 2 + 2, edge // 2 - 2 : edge // 2 + 2] = 1
        case = store_arrays(folder / f"case{number}", np.ones(shape), label, ("liver",), number)
        stored.append(WatchedCase(**{field.name: getattr(case, field.name) for field in fields(case)}))
    preset = replace(TINY, augmentation=augmentation)
    sampler, Watched.read = PatchSampler(stored, preset, seed=0, site="here"), 0
    sampler.batch(0)
    before = Watched.read
    memory = allocated(lambda: sampler.batch(1))
    return Watched.read - before, memory


@pytest.mark.parametrize("augmentation", ["light", "condistfl"])
def test_a_patch_reads_and_takes_the_same_of_any_volume_and_of_any_number_of_cases(tmp_path, augmentation):
    read, memory = patch_cost(tmp_path / "small", 32, 2, augmentation)
    assert read >= TINY.volumes_per_batch * 16**3 * 3  # float16 and uint8
    large_read, large_memory = patch_cost(tmp_path / "large", 64, 2, augmentation)
    assert large_read <= 1.1 * read
    assert large_memory <= 1.1 * memory + 20_000
    many_read, many_memory = patch_cost(tmp_path / "many", 32, 32, augmentation)
    assert many_read <= 1.1 * read
    assert many_memory <= 1.1 * memory + 20_000


def mean_memory(sites: int, parameters: int) -> int:
    rng = np.random.default_rng(0)
    updates = {f"site{i}": {"w": rng.standard_normal(parameters, dtype=np.float32)} for i in range(sites)}
    return allocated(lambda: weighted_mean(updates, dict.fromkeys(updates, 3.0)))


def test_the_mean_takes_the_same_memory_for_any_number_of_sites():
    two, many = mean_memory(2, 50_000), mean_memory(32, 50_000)
    assert many <= 1.1 * two + 20_000
    assert mean_memory(2, 400_000) <= 8 * 1.1 * two
