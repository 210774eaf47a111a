"""report.html: one file with everything inline, rendered from report.json and the pictures."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fedpartial.evaluation import figures, formats
from fedpartial.evaluation.adaptation import adaptation_section
from fedpartial.evaluation.cautions import find_cautions
from fedpartial.evaluation.colours import colour
from fedpartial.evaluation.exchange import exchange_section
from fedpartial.evaluation.record import Overlay
from fedpartial.evaluation.summary import macro_mean, statistics
from fedpartial.labels import LabelSpace

if TYPE_CHECKING:
    from markupsafe import Markup

TEMPLATE = "report.html"


def render_page(report: Mapping, overlays: Sequence[Overlay], space: LabelSpace) -> str:
    """The HTML of a report (the content of report.json). Site names and notes are escaped."""
    return fill(TEMPLATE, _context(report, overlays, space))


def fill(template: str, context: Mapping) -> str:
    """A template of this package with its values: every string is escaped unless it is Markup."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("fedpartial.evaluation", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (
        formats.number,
        formats.mean_sd,
        formats.percent,
        formats.size,
        formats.duration,
        formats.plural,
        formats.short_commit,
    )
    environment.filters |= {f.__name__: f for f in filters} | {"label": formats.class_label, "colour": colour}
    return environment.get_template(template).render(context)


def headline(report: Mapping, space: LabelSpace) -> dict[str, float | None]:
    """Mean Dice over organs and over lesions, on the external set and over the sites' own classes."""
    lesions = dict.fromkeys(space.lesions)
    groups = {"organ": dict.fromkeys(n for n in space.classes if n not in lesions), "lesion": lesions}
    numbers = {}
    for group, names in groups.items():
        numbers[f"external_{group}"] = macro_mean(report["external"], names)
        means = [entry["dice"]["mean"] for s in report["sites"].values() for n, entry in s.items() if n in names]
        numbers[f"sites_{group}"] = statistics(means)["mean"]
    return numbers


def _context(report: Mapping, overlays: Sequence[Overlay], space: LabelSpace) -> dict:
    classes = _classes(report, space)
    return {
        "report": report,
        "classes": classes,
        "headline": headline(report, space),
        "cautions": find_cautions(report, space),
        "duration": sum(report["phases"].values()) or sum(r["seconds"] for r in report["rounds"]),
        "traffic": {way: sum(r[way] for r in report["rounds"]) for way in ("bytes_up", "bytes_down")},
        "site_totals": {site: _site_totals(report, site) for site in figures.site_names(report)},
        "models": _models(report),
        "adaptation": adaptation_section(report, space.classes),
        "exchange": exchange_section(report["exchange"]),
        "external_heads": _external_heads(report),
        "figures": _figures(report, classes),
        "overlays": [(o, base64.b64encode(o.png).decode("ascii")) for o in overlays],
    }


def _classes(report: Mapping, space: LabelSpace) -> list[str]:
    """Every class with a number anywhere, in channel order; names the space does not know come last."""
    sets = (
        report["external"],
        _external_heads(report),
        *report["sites"].values(),
        *(s for m in report["cross_site"].values() for s in m.values()),
    )
    found = dict.fromkeys(name for summary in sets for name in summary)
    places = {name: place for place, name in enumerate(space.classes)}
    return sorted(found, key=lambda name: places.get(name, len(places)))


def _external_heads(report: Mapping) -> Mapping[str, Mapping]:
    """Each class of the external set scored by its own head, where that is not what the label map says anyway."""
    heads = report.get("external_heads", {})  # reports of earlier versions have none
    return {} if heads == report["external"] else heads


def _site_totals(report: Mapping, site: str) -> dict:
    rounds = [r["sites"][site] for r in report["rounds"] if site in r["sites"]]
    totals = {key: sum(r[key] for r in rounds) for key in ("seconds", "bytes_up", "bytes_down")}
    return {"rounds": len(rounds), **totals}


def _models(report: Mapping) -> dict[str, dict]:
    """Cross-site matrix: model -> its mean Dice at each site (None where it has none), and over the sites."""
    matrix = {}
    for model, sites in report["cross_site"].items():
        means = {site: statistics(classes.values())["mean"] for site, classes in sites.items()}
        matrix[model] = {"sites": means, "mean": statistics(means.values())["mean"]}
    return matrix


def _figures(report: Mapping, classes: Sequence[str]) -> dict[str, Markup]:
    drawn = {
        "validation": figures.validation_curves(report),
        "loss": figures.loss_curves(report),
        "dice": figures.dice_by_class(report, classes),
        "traffic": figures.bytes_by_round(report),
        "phases": figures.seconds_by_phase(report),
    }
    return inline_figures(drawn)


def inline_figures(drawn: Mapping[str, bytes | None]) -> dict[str, Markup]:
    """Name -> inline SVG, trusted: matplotlib escapes the names in it. What was not drawn is left out."""
    from markupsafe import Markup

    return {name: Markup(_inline(svg.decode(), name)) for name, svg in drawn.items() if svg is not None}


def _inline(svg: str, name: str) -> str:
    """Give the ids of one figure their own prefix, and let the page size it."""
    svg = re.sub(r'(\sid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    return re.sub(
        r'^(<svg[^>]*?) width="[^"]*"', r'\1 aria-hidden="true"', re.sub(r' height="[^"]*pt"', "", svg, count=1)
    )
