"""One case scored from its files: prediction and reference on their own grid, every fault of them named."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedpartial.data.faults import Fault, data_fault
from fedpartial.data.label_values import count_values
from fedpartial.data.preprocess import Volume, load_label
from fedpartial.data.readable import load_checked
from fedpartial.data.same_grid import is_same_grid
from fedpartial.evaluation.comparable import Comparable, with_lesions
from fedpartial.evaluation.distances import foreground_box
from fedpartial.evaluation.metrics import CaseScores, EmptyClass, score_case
from fedpartial.labels import LabelSpace, LabelTable

MAX_VALUES_SHOWN = 8


@dataclass(frozen=True, kw_only=True)
class ScoreTask:
    """A case to score. The tables say what the values of its two label files mean in ``space``."""

    name: str
    site: str
    split: str
    image: Path
    prediction: Path
    reference: Path
    space: LabelSpace
    prediction_table: LabelTable
    reference_table: LabelTable
    comparable: Comparable
    empty_class: EmptyClass = "exclude"


@dataclass(frozen=True, kw_only=True)
class ScoredCase:
    """Scores of a case, and of its organs together with their lesions where they are annotated apart."""

    task: ScoreTask
    scores: CaseScores
    organs: CaseScores | None


@dataclass(frozen=True, kw_only=True)
class LabelPair:
    """Prediction and reference as channels, uint8 (H W D), and their affine (4x4)."""

    prediction: np.ndarray
    reference: np.ndarray
    affine: np.ndarray


def score_files(task: ScoreTask) -> ScoredCase | list[Fault]:
    """The scores of a case, or what is wrong with its files."""
    pair = read_pair(task)
    if isinstance(pair, list):
        return pair
    together = with_lesions(task.space, task.comparable)
    return ScoredCase(
        task=task,
        scores=_score(pair, task, task.comparable),
        organs=None if together is None else _score(pair, task, together),
    )


def read_pair(task: ScoreTask) -> LabelPair | list[Fault]:
    """Both label files as channels of ``task.space``, or every fault of them."""
    faults: list[Fault] = []
    prediction = load_checked(task.prediction, "prediction", load_label, faults)
    reference = load_checked(task.reference, "label", load_label, faults)
    if prediction is not None and reference is not None:
        faults += off_reference(task.prediction, prediction, task.reference, reference)
    found = []
    for path, volume, table in (
        (task.prediction, prediction, task.prediction_table),
        (task.reference, reference, task.reference_table),
    ):
        found.append(None if volume is None else _channels(path, volume, table, faults))
    if faults:
        return faults
    return LabelPair(prediction=found[0], reference=found[1], affine=reference.affine)


def off_reference(path: Path, prediction: Volume, reference_path: Path, reference: Volume) -> list[Fault]:
    """Whether a prediction lies on the grid of its reference; of both only shape and affine are looked at."""
    if is_same_grid(reference, prediction):
        return []
    shapes = prediction.array.shape, reference.array.shape
    field, got, expected = "shape", shapes[0], f"{shapes[1]}, as {reference_path.name} has"
    if shapes[0] == shapes[1]:
        field, got, expected = "affine", "another position, spacing or orientation", f"that of {reference_path.name}"
    remedy = "Give predictions on the grid of the images (fedpartial predict writes them so), or resample them."
    return [data_fault(path, field, got, expected, remedy, "prediction beside the reference")]


def _channels(path: Path, volume: Volume, table: LabelTable, faults: list[Fault]) -> np.ndarray | None:
    """uint8 (H W D); or None and one more fault."""
    values, _ = count_values(volume.array)
    whole = values[np.isfinite(values) & (values == np.round(values))]
    remedy = "Name each value: in the site file's labels, or of predictions with --prediction-labels."
    if whole.size < values.size:
        expected, remedy = "whole numbers", "Is this a label map? Resample labels by nearest neighbour."
        faults.append(data_fault(path, "values", _shown(values), expected, remedy, "fractions as labels"))
    elif unknown := table.unknown(values):
        expected = f"values {list(table.channels)}"
        faults.append(data_fault(path, "values", _shown(np.array(unknown)), expected, remedy, "unnamed label values"))
    else:
        return translated(volume, table)
    return None


def translated(volume: Volume, table: LabelTable) -> np.ndarray:
    """Raw values as channels, uint8 (H W D). Which side a voxel lies on depends on the whole grid; else only the box
    that is not 0 is looked at, which is a small part of most label files."""
    if table.pairs:
        return table.apply(volume.array, volume.affine)
    box = foreground_box(volume.array)
    channels = np.zeros_like(volume.array, dtype=np.uint8)
    channels[box] = table.apply(volume.array[box])
    return channels


def _score(pair: LabelPair, task: ScoreTask, how: Comparable) -> CaseScores:
    return score_case(
        how.fold[pair.prediction],
        how.fold[pair.reference],
        spacing_mm=tuple(np.linalg.norm(pair.affine[:3, :3], axis=0)),
        space=task.space,
        labelled=how.labelled,
        empty_class=task.empty_class,
    )


def _shown(values: np.ndarray) -> str:
    shown = ", ".join(f"{value:g}" for value in values[:MAX_VALUES_SHOWN].tolist())
    return shown if values.size <= MAX_VALUES_SHOWN else f"{shown}, ... ({values.size} values)"
