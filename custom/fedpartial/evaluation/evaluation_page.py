"""evaluation.html: one file with everything inline, rendered from the content of evaluation.json and the pictures."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence

from fedpartial.evaluation.evaluation_figures import dice_figure, distance_figure
from fedpartial.evaluation.evaluation_record import Evaluation
from fedpartial.evaluation.page import fill, inline_figures
from fedpartial.evaluation.record import Overlay
from fedpartial.evaluation.summary import macro_mean
from fedpartial.labels import LabelSpace

TEMPLATE = "evaluation.html"


def draw_figures(evaluation: Evaluation) -> dict[str, bytes | None]:
    """Name -> SVG, None where there is nothing to draw."""
    cases, classes = [case.scores for case in evaluation.cases], list(evaluation.classes)
    return {
        "dice": dice_figure(cases, classes),
        "hd95": distance_figure(cases, classes, "hd95_mm", "HD95 of every case"),
        "assd": distance_figure(cases, classes, "assd_mm", "ASSD of every case"),
    }


def render_evaluation(
    content: Mapping, space: LabelSpace, figures: Mapping[str, bytes | None], overlays: Sequence[Overlay]
) -> str:
    """The HTML. content: of evaluation.json. figures: of ``draw_figures``. Names of cases and classes are escaped."""
    organs = [name for name in space.classes if name not in space.lesions]
    context = {
        "evaluation": content,
        "merged": {name for case in content["cases"] for name in case["merged"]},
        "means": {
            "organ": macro_mean(content["classes"], organs),
            "lesion": macro_mean(content["classes"], space.lesions),
        },
        "figures": inline_figures(figures),
        "overlays": [(overlay, base64.b64encode(overlay.png).decode("ascii")) for overlay in overlays],
    }
    return fill(TEMPLATE, context)
