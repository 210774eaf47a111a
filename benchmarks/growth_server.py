"""Workloads of benchmarks/growth.py at the server: means of updates, distillation of models, report, comparison.

As in growth_training.py a workload is a function of (size, folder) that returns the function to measure.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from growth_space import Size, label_volume, preset_on, scaled, space_of, stored_case
from growth_training import CLASSES, CPU, VOLUME, VOXELS, Work

from fedpartial.distillation.distillation_state import DistillationState
from fedpartial.distillation.entropy import SelectionRule
from fedpartial.distillation.probability_files import read_maps, write_maps
from fedpartial.distillation.selection import choose
from fedpartial.distillation.soft_patches import SoftSampler, soft_volume
from fedpartial.distillation.student import Student
from fedpartial.evaluation.compared_run import ComparedRun
from fedpartial.evaluation.comparison import compare
from fedpartial.evaluation.comparison_page import render_html, render_markdown
from fedpartial.evaluation.metrics import CaseScores
from fedpartial.evaluation.record import EXTERNAL, EXTERNAL_ORGANS, RunRecord
from fedpartial.evaluation.report import write_report
from fedpartial.evaluation.summary import summarise
from fedpartial.labels import LabelSpace
from fedpartial.presets import PHANTOM, get_preset
from fedpartial.server.aggregation import weighted_mean
from fedpartial.server.label_weights import LabelWeights, label_weighted_mean

PARAMETERS = 250_000
"""Numbers of an update at voxels 1."""
OUTPUT_ROWS = "output_block.conv.conv.weight"
CASES, ROUNDS, SEEDS, STEPS = 4, 8, 2, 1


def mean(size: Size, folder: Path) -> Work:
    """The mean of one update of each site; "voxels" is the number of parameters here."""
    updates = _updates(size)
    return lambda: weighted_mean(updates, dict.fromkeys(updates, 10.0))


def mean_by_label(size: Size, folder: Path) -> Work:
    """The same where each row of the output layer is weighted by who annotates its class."""
    updates, space = _updates(size), space_of(size.classes)
    shares = {site: space.classes[i % 2 :: 2] for i, site in enumerate(updates)}
    return lambda: label_weighted_mean(updates, dict.fromkeys(updates, 10.0), LabelWeights(), shares, space)


def _updates(size: Size) -> dict[str, dict[str, np.ndarray]]:
    """Of each site ten tensors, and an output layer with a row of 64 numbers for each channel."""
    rng, part = np.random.default_rng(0), PARAMETERS * size.voxels // 10
    shapes = {f"layer{i}.weight": (part,) for i in range(10)} | {OUTPUT_ROWS: (size.classes + 1, 64)}
    return {
        f"site{i}": {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}
        for i in range(size.sites)
    }


def selection(size: Size, folder: Path) -> Work:
    """The maps of each site's model of every class of one volume written, read again, and the best ones chosen."""
    classes, rule = space_of(size.classes).classes, SelectionRule()
    maps = _probabilities(size)

    def work() -> None:
        found = {}
        for number in range(size.sites):
            index = folder / f"model{number}.json"
            write_maps(index, classes, maps)
            found[f"model{number}"] = read_maps(index, classes)
        for klass in classes:
            choose("volume", klass, {name: each[klass].entropy for name, each in found.items()}, rule)

    return work


def _probabilities(size: Size) -> np.ndarray:
    """float32 (K, H, W, D): sure of the blocks of each class."""
    shape = scaled(VOLUME, size.voxels)
    labels = label_volume(shape, size.classes)
    maps = np.full((size.classes, *shape), 0.1, dtype=np.float32)
    for channel in range(1, size.classes + 1):
        maps[channel - 1][labels == channel] = 0.9
    return maps


def student_step(size: Size, folder: Path) -> Work:
    """A step of the distillation, with its patches of all maps and its file of weights and moments."""
    preset = preset_on(get_preset("phantom_mmds"), size)
    classes, index = preset.label_space.classes, folder / "model.json"
    write_maps(index, classes, _probabilities(size))
    case = stored_case(folder / "case", scaled(VOLUME, size.voxels), preset.label_space)
    sampler = SoftSampler([soft_volume(case, read_maps(index, classes), classes)], preset, seed=0)
    student = Student(preset, classes, seed=0, steps=STEPS, precision=CPU, start=None, embeddings=None)
    state = DistillationState(folder, "growth")
    return lambda: student.train(
        sampler, state, [], began=0.0, stop=lambda: False, on_progress=lambda what, done, total, loss: None
    )


def report(size: Size, folder: Path) -> Work:
    """The files of a run's report; two models are scored at every site."""
    space = preset_on(PHANTOM, size).label_space
    record = _record(size, space, models=2)
    return lambda: write_report(record, folder, space=space)


def report_of_all_models(size: Size, folder: Path) -> Work:
    """The same with every site's local model at every site: a table of sites x sites."""
    space = preset_on(PHANTOM, size).label_space
    record = _record(size, space, models=2 + size.sites)
    return lambda: write_report(record, folder, space=space)


def comparison(size: Size, folder: Path) -> Work:
    """Scores, tests and both pages of a comparison, with two seeds of each method."""
    space = preset_on(PHANTOM, size).label_space
    runs = [
        ComparedRun(
            method=f"method {number}", seed=seed, report=_record(size, space, seed=(number, seed)).to_report(),
            local_steps=10,
        )
        for number in range(size.methods)
        for seed in range(SEEDS)
    ]  # fmt: skip

    def work() -> None:
        found = compare(runs, title="growth")
        render_html(found)
        render_markdown(found)

    return work


def _record(size: Size, space: LabelSpace, *, models: int = 2, seed: tuple[int, ...] = (0,)) -> RunRecord:
    """Of a made-up run: each site annotates two neighbouring classes in turn, the external set all."""
    rng, pairs = np.random.default_rng([*seed]), list(zip(space.classes[::2], space.classes[1::2], strict=True))
    cases = {f"site{i:02d}": [_case(rng, pairs[i % len(pairs)]) for _ in range(CASES)] for i in range(size.sites)}
    sites = {site: summarise(given, space) for site, given in cases.items()}
    external = [_case(rng, space.classes) for _ in range(CASES)]
    organs = [_case(rng, space.merged.classes) for _ in range(CASES)]
    means = {site: {name: entry["dice"]["mean"] for name, entry in of.items()} for site, of in sites.items()}
    return RunRecord(
        job="growth",
        commit=None,
        seed=seed[-1],
        preset=f"growth_{PHANTOM.name}",
        versions={},
        empty_class_policy="exclude",
        device=dict.fromkeys(sites, "cpu"),
        precision=dict.fromkeys(sites, "float32"),
        sites=sites,
        external=summarise(external, space),
        external_organs=summarise(organs, space.merged),
        rounds=[_round(number, tuple(sites), rng) for number in range(1, ROUNDS + 1)],
        phases={"training rounds": 60.0},
        cross_site={f"model {number}": means for number in range(models)},
        cases={**cases, EXTERNAL: external, EXTERNAL_ORGANS: organs},
    )


def _case(rng: np.random.Generator, names: tuple[str, ...]) -> CaseScores:
    dice = {name: float(rng.uniform(0.5, 1)) for name in names}
    millimetres = {name: 10 * value for name, value in dice.items()}
    status, leakage = dict.fromkeys(names, "scored"), dict.fromkeys(names, 0.01)
    return CaseScores(dice=dice, hd95_mm=millimetres, assd_mm=millimetres, status=status, leakage=leakage)


def _round(number: int, sites: tuple[str, ...], rng: np.random.Generator) -> dict:
    own = {"seconds": 4.0, "bytes_up": 1000, "bytes_down": 1000}
    by_site = {s: {"loss": float(rng.uniform(1, 2)), "val_dice": float(rng.uniform(0.5, 1)), **own} for s in sites}
    total = {"seconds": 10.0, "bytes_up": 1000 * len(sites), "bytes_down": 1000 * len(sites), "val_dice": 0.5}
    return {"round": number, **total, "sites": by_site}


SITES, METHODS = "sites", "methods"
SERVER = {
    "mean of updates": (mean, (SITES, VOXELS)),
    "mean of updates, by label": (mean_by_label, (CLASSES, SITES, VOXELS)),
    "maps and selection (MMDS)": (selection, (CLASSES, SITES, VOXELS)),
    "step of the student (MMDS)": (student_step, (CLASSES, VOXELS)),
    "report": (report, (CLASSES, SITES)),
    "report, all models at all sites": (report_of_all_models, (SITES,)),
    "comparison": (comparison, (CLASSES, SITES, METHODS)),
}
"""Name -> workload, and the axes along which it is measured."""
