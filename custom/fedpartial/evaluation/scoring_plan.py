"""Which predictions are scored against which references, and how: all that headers say, before a voxel is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedpartial.data.datalist import SPLITS, Case, read_datalist
from fedpartial.data.faults import Fault
from fedpartial.data.integrity import labelled_mask
from fedpartial.data.preprocess import Volume
from fedpartial.data.readable import load_checked
from fedpartial.errors import ConfigError
from fedpartial.evaluation.comparable import Lesions, comparable
from fedpartial.evaluation.metrics import EmptyClass
from fedpartial.evaluation.prediction_files import (
    LABELS_OPTION,
    case_names,
    class_names,
    find_prediction,
    read_meaning,
    unnamed,
)
from fedpartial.evaluation.scored_case import ScoreTask, off_reference
from fedpartial.labels import BACKGROUND, LabelSpace
from fedpartial.presets import PRESETS, get_preset
from fedpartial.sites import SiteConfig

DEFAULT_PRESET = "abdomen"


@dataclass(frozen=True, kw_only=True)
class ChosenCase:
    """A case with a reference. name: unique among the chosen ones."""

    name: str
    site: SiteConfig
    case: Case


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """A case and its prediction. labels: value -> class. preset, model: that made it, where its header says so."""

    chosen: ChosenCase
    path: Path
    labels: dict[int, str]
    preset: str | None
    model: str | None


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How cases are scored. preset: None for the predictions' own. labels: of predictions that do not name them."""

    preset: str | None = None
    labels: Mapping[int, str] | None = None
    lesions: Lesions = "auto"
    empty_class: EmptyClass = "exclude"


def choose_cases(sites: Sequence[SiteConfig], splits: Sequence[str]) -> tuple[list[ChosenCase], int]:
    """Every case of the splits that has a reference, and the number of those that have none.

    Raises ConfigError where none is left.
    """
    found = [(site, case) for site in sites for split in splits for case in read_datalist(site)[split]]
    labelled = [(site, case) for site, case in found if case.label is not None]
    if not labelled:
        got = f"{len(found)} cases, none with a label" if found else "no case"
        counts = {split: sum(len(read_datalist(site)[split]) for site in sites) for split in SPLITS}
        remedy = f"The datalist has {', '.join(f'{n} {split}' for split, n in counts.items())} cases: choose a --split."
        raise ConfigError(
            where=str(sites[0].datalist),
            field=", ".join(splits),
            got=got,
            expected="at least one case with a label to compare with",
            remedy=remedy,
        )
    names = case_names([case for _, case in labelled])
    chosen = [ChosenCase(name=name, site=site, case=case) for name, (site, case) in zip(names, labelled, strict=True)]
    return chosen, len(found) - len(labelled)


def find_predictions(
    chosen: Sequence[ChosenCase], folder: Path, rules: Rules
) -> tuple[list[Predicted], list[Fault | ConfigError]]:
    """The predictions of all cases that have one which says what it means, and what is wrong with the others."""
    found, faults = [], []
    for one in chosen:
        path = find_prediction(folder, one.case, one.name)
        try:
            meaning = None if isinstance(path, Fault) else read_meaning(path)
        except ConfigError as error:
            faults.append(error)
            continue
        meaning = meaning or {}
        labels = rules.labels or meaning.get("labels")
        if isinstance(path, Fault) or labels is None:
            faults.append(path if isinstance(path, Fault) else unnamed(path))
            continue
        made = {"preset": meaning.get("preset"), "model": meaning.get("model")}
        found.append(Predicted(chosen=one, path=path, labels=dict(labels), **made))
    return found, faults


def choose_preset(given: str | None, predicted: Sequence[Predicted]) -> str:
    """The one given, that of the predictions, or the first whose label space has all names."""
    if given is not None:
        return get_preset(given).name
    own = {one.preset for one in predicted}
    if len(own) == 1 and (name := own.pop()) in PRESETS:
        return name
    names = {name for one in predicted for name in (*one.labels.values(), *one.chosen.site.labels.values())}
    fitting = [preset for preset in (DEFAULT_PRESET, *PRESETS) if not unknown_names(get_preset(preset), names)]
    return fitting[0] if fitting else DEFAULT_PRESET


def unknown_names(preset, names: set[str]) -> set[str]:
    known = {BACKGROUND, *(name for organ in preset.label_space.organs for name in organ.names)}
    return names - known


def plan_scoring(
    predicted: Sequence[Predicted], space: LabelSpace, rules: Rules
) -> tuple[list[ScoreTask], list[Fault | ConfigError]]:
    """One task for each case that can be scored, and what is wrong with the others as far as headers say it."""
    tasks, faults = [], []
    for one in predicted:
        try:
            task = _task(one, space, rules)
        except ConfigError as error:
            faults.append(error)
            continue
        found = _header_faults(task)
        faults += found
        tasks += [] if found else [task]
    return tasks, list({str(fault): fault for fault in faults}.values())


def _task(one: Predicted, space: LabelSpace, rules: Rules) -> ScoreTask:
    site, case = one.chosen.site, one.chosen.case
    where = str(one.path) if rules.labels is None else LABELS_OPTION
    annotated = labelled_mask(case, site, space)
    return ScoreTask(
        name=one.chosen.name,
        site=site.name,
        split=case.split,
        image=case.image,
        prediction=one.path,
        reference=case.label,
        space=space,
        prediction_table=space.table(one.labels, where=where),
        reference_table=space.table(site.labels, where=site.where),
        comparable=comparable(space, annotated, class_names(one.labels), rules.lesions),
        empty_class=rules.empty_class,
    )


def _header_faults(task: ScoreTask) -> list[Fault]:
    """Files that are missing or whose headers do not fit."""
    faults: list[Fault] = []
    headers = [
        load_checked(path, field, _header, faults)
        for path, field in ((task.prediction, "prediction"), (task.reference, "label"))
    ]
    if None in headers:
        return faults
    return off_reference(task.prediction, headers[0], task.reference, headers[1])


def _header(path: Path) -> Volume:
    """Shape and affine; no voxel is read."""
    import nibabel

    image = nibabel.load(path)
    return Volume(array=image.dataobj, affine=image.affine)


def without_classes(tasks: Sequence[ScoreTask]) -> tuple[list[ScoreTask], list[str]]:
    """Tasks with a class to score, and the names of cases that have none."""
    kept = [task for task in tasks if task.comparable.labelled.any()]
    return kept, [task.name for task in tasks if not task.comparable.labelled.any()]
