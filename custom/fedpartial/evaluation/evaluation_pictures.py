"""Pictures of the worst, the median and the best case of an evaluation."""

from __future__ import annotations

import numpy as np

from fedpartial.data.faults import Fault
from fedpartial.data.preprocess import Volume, load_image
from fedpartial.data.readable import load_checked
from fedpartial.data.same_grid import off_grid
from fedpartial.evaluation.evaluation_record import Evaluation
from fedpartial.evaluation.overlays import case_mean, overlay_picture, pick_cases
from fedpartial.evaluation.record import Overlay
from fedpartial.evaluation.scored_case import ScoredCase, read_pair


def draw_cases(evaluation: Evaluation) -> tuple[dict[str, Overlay], list[Fault]]:
    """ "worst", "median" and "best" -> picture, each case once; and why images could not be drawn."""
    picked = pick_cases([case.scores for case in evaluation.cases])
    names = {position: name for name, position in reversed(picked.items())}
    overlays, faults = {}, []
    for name, position in picked.items():
        if names[position] == name:
            drawn = _draw(evaluation.cases[position], name)
            if isinstance(drawn, Overlay):
                overlays[name] = drawn
            else:
                faults += drawn
    return overlays, faults


def _draw(case: ScoredCase, which: str) -> Overlay | list[Fault]:
    task, faults = case.task, []
    pair, image = read_pair(task), load_checked(case.task.image, "image", load_image, faults)
    if isinstance(pair, list) or image is None:
        return [*(pair if isinstance(pair, list) else ()), *faults]
    reference = Volume(array=pair.reference, affine=pair.affine)
    if faults := off_grid(task.reference, reference, task.image, image):
        return faults
    shown = _shown_channels(case)
    title = f"{which}: {task.name}"
    png = overlay_picture(
        image.array, shown[pair.reference], shown[pair.prediction], affine=pair.affine, space=task.space, title=title
    )
    return Overlay(title=title, site=task.site, dice=case_mean(case.scores), png=png)


def _shown_channels(case: ScoredCase) -> np.ndarray:
    """uint8 (C,): the channel as which each one is drawn; classes that are not scored are left out."""
    how = case.task.comparable
    return np.where(how.labelled[how.fold], how.fold, 0).astype(np.uint8)
