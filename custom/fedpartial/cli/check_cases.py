"""One pass over the cases of all sites, over several processes: every file is read once, for everything."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fedpartial.cli.simulator import available_bytes
from fedpartial.data.datalist import Case
from fedpartial.data.integrity import Inspected
from fedpartial.data.side_by_side import in_processes
from fedpartial.data.survey import CaseSurvey, class_names, survey_case
from fedpartial.evaluation.case_sheet import Panel, cut_panel
from fedpartial.presets import Preset
from fedpartial.sites import SiteConfig

WORKER_BYTES = 2 * 10**9
"""What reading a scan of 512 x 512 x 1000 voxels takes."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A case to look at, and whether a slice of it will be drawn."""

    site: SiteConfig
    case: Case
    preset: Preset
    drawn: bool


@dataclass(frozen=True, kw_only=True)
class Examined:
    """What was found in a case, and its slice where one was asked for and could be cut."""

    survey: CaseSurvey
    panel: Panel | None


def examine(task: Task) -> Examined:
    """Read one case. Holds one case's volumes at a time, and gives none of them back."""
    from nibabel.imageglobals import LoggingOutputSuppressor

    with LoggingOutputSuppressor():  # what nibabel would say about a header is a fault or a remark here
        survey, inspected = survey_case(task.case, task.site, task.preset)
    return Examined(survey=survey, panel=_panel(task, inspected) if task.drawn else None)


def default_workers() -> int:
    """One for each core, as far as memory goes."""
    return max(1, min(os.cpu_count() or 1, available_bytes() // WORKER_BYTES))


def examine_all(tasks: Sequence[Task], workers: int, progress: Callable[[str], None]) -> list[Examined]:
    """All cases in the order given; ``progress(file name)`` is called after each. One worker is this process.

    Raises ConfigError where a worker was killed, for which a full memory is the usual reason.
    """
    found: dict[int, Examined] = {}
    for index, examined in in_processes(examine, tasks, workers):
        found[index] = examined
        progress(tasks[index].case.image.name)
    return [found[index] for index in range(len(tasks))]


def sheet_classes(site: SiteConfig) -> dict[str, int]:
    """Class -> channel of a site's sheet: its own classes, numbered."""
    return {name: channel for channel, name in enumerate(class_names(site), start=1)}


def _panel(task: Task, inspected: Inspected) -> Panel | None:
    """Drawn voxel by voxel, whatever the label's affine: so a shifted header is seen for what it is."""
    image, label = inspected.image, inspected.label
    if image is None or (label is not None and label.array.shape != image.array.shape):
        return None
    classes = sheet_classes(task.site)
    channels = {value: classes.get(name, 0) for value, name in task.site.labels.items()}
    array = None if label is None or inspected.counts is None else label.array
    name = f"{task.case.image.parent.name}/{task.case.image.name}" if _is_plain(task.case) else task.case.image.name
    fault = f"FAULT {inspected.faults[0].kind}: " if inspected.faults else ""
    return cut_panel(image.array, array, image.affine, channels, name=f"{fault}{name}")


def _is_plain(case: Case) -> bool:
    """KiTS names every image imaging.nii.gz: only the folder tells cases apart."""
    return case.image.name.split(".")[0] in ("imaging", "image", "ct", "volume", "img")
