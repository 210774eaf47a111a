"""What every site has of its own in a report, beside the federated model: a model adapted from it (site adaptation), or
one that the site has trained alone, and that one before the federated one (MMDS, METHODS 4.6).

The federated model is the last one, which the sites were given: where an earlier round was selected, not the model of
other tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from fedpartial.evaluation.annotated import KINDS, all_classes, summaries_of_kind
from fedpartial.evaluation.formats import UNDEFINED, class_label, number
from fedpartial.evaluation.record import EXTERNAL_NAMES
from fedpartial.evaluation.summary import pooled_means, statistics

if TYPE_CHECKING:
    from rich.table import Table

FEDERATED = "federated model"
GLOBAL = "global model"
OWN_MODELS = {"local": "local model", "personalised": "personalised"}
"""Way -> name of the models of a site that has trained alone (training/reported.py SITE_OWN)."""
ADAPTED = "adapted "
"""Before the way of both kinds in the names of the cross-site matrix."""
METRICS = ("dice", "hd95_mm", "assd_mm")
ALL = "all cases"


def adaptation_section(report: Mapping, classes: Iterable[str]) -> dict:
    """The sites' own models of report.json for page and console; {} in a run without.

    classes: of the label space. own: whether the sites have trained alone, and not adapted. models: the federated one,
    always the first, and one for each way. names: of the cross-site matrix -> what to call it. groups: for all cases,
    and where both kinds exist for fully and partially annotated ones: ``{"title", "sites": {site: cases}, "models":
    {model: means}}`` over the sites that have scores of all models. classes: those with a score in any group. sites:
    ``{site: {"annotates": text, "models": {model: means or None}}}``.
    means: ``{"mean": {metric: value}, "classes": {class: {metric: value}}}``, each class over the cases of all sites.
    """
    if not report.get("adapted_sites"):  # reports of earlier versions have none
        return {}
    classes, models, own = list(classes), _models(report), _trained_alone(report)
    common = [site for site in report["sites"] if all(site in summaries for summaries, _ in models.values())]
    groups = [_group(kind, models, common, classes) for kind in (ALL, *KINDS)]
    groups = [group for group in groups if group["sites"]]
    return {
        "own": own,
        "title": "Every site\N{RIGHT SINGLE QUOTATION MARK}s own models" if own else "Site adaptation",
        "names": {f"{ADAPTED}{way}": name for way, name in OWN_MODELS.items()} if own else {},
        "models": list(models),
        "groups": groups if len(groups) > 2 else groups[:1],  # one kind alone would repeat all cases
        "classes": {name for group in groups for means in group["models"].values() for name in means["classes"]},
        "sites": {site: _site(site, models, classes) for site in _sites(models)},
    }


def _trained_alone(report: Mapping) -> bool:
    return report["adapted_sites"].keys() <= OWN_MODELS.keys()


def _models(report: Mapping) -> dict[str, tuple[Mapping, Mapping]]:
    """Name -> (site -> summary, site -> cases)."""
    adapted = report["adapted_cases"]
    return {GLOBAL if _trained_alone(report) else FEDERATED: _federated(report)} | {
        OWN_MODELS.get(way, f"{ADAPTED}{class_label(way)}"): (summaries, adapted.get(way, {}))
        for way, summaries in report["adapted_sites"].items()
    }


def _federated(report: Mapping) -> tuple[Mapping, Mapping]:
    """Of the model that was adapted; reports of earlier versions have the selected one only."""
    cases = {site: found for site, found in report["cases"].items() if site not in EXTERNAL_NAMES}
    return report.get("unadapted_sites", report["sites"]), report.get("unadapted_cases", cases)


def _sites(models: Mapping[str, tuple]) -> list[str]:
    """Sites with an adapted model of any way."""
    adapted = (summaries for summaries, _ in list(models.values())[1:])
    return list(dict.fromkeys(site for summaries in adapted for site in summaries))


def _group(kind: str, models: Mapping[str, tuple], sites: list[str], classes: list[str]) -> dict:
    chosen = {name: _of_kind(kind, *parts, sites, classes) for name, parts in models.items()}
    counts = {site: _num_cases(summary) for site, summary in next(iter(chosen.values())).items()}
    return {"title": kind, "sites": counts, "models": {n: _means(s.values(), classes) for n, s in chosen.items()}}


def _of_kind(kind: str, summaries: Mapping, cases: Mapping, sites: list[str], classes: list[str]) -> dict:
    given = {site: summaries[site] for site in sites}
    return given if kind == ALL else summaries_of_kind(given, cases, classes, kind)


def _num_cases(summary: Mapping) -> int | None:
    """The most cases behind a class; None where the site keeps its numbers."""
    return max((entry["dice"]["n"] for entry in summary.values() if entry["dice"]["n"] is not None), default=None)


def _site(site: str, models: Mapping[str, tuple], classes: list[str]) -> dict:
    means = {name: _means([found[site]], classes) if site in found else None for name, (found, _) in models.items()}
    annotated = {name for found, _ in models.values() for name in found.get(site, ())}
    given = [class_label(name) for name in classes if name in annotated]
    return {"annotates": "all classes" if len(given) == len(classes) else ", ".join(given), "models": means}


def _means(summaries: Iterable[Mapping], classes: list[str]) -> dict:
    """The mean over classes is None while a class that was scored has no value: it would be of fewer, easier ones."""
    summaries = list(summaries)
    found = {metric: pooled_means(summaries, metric) for metric in METRICS}
    scored = {name for summary in summaries for name, entry in summary.items() if entry["dice"]["n"] != 0}
    mean = {
        m: statistics(v for v, _ in by.values())["mean"] if scored <= by.keys() else None for m, by in found.items()
    }
    named = {name: {m: by[name][0] if name in by else None for m, by in found.items()} for name in classes}
    return {"mean": mean, "classes": {name: values for name, values in named.items() if name in scored}}


def adaptation_table(report: Mapping) -> Table | None:
    """Mean over classes of each model, by kind of case and by site, for a console of 80; None in a run without."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    section = adaptation_section(report, all_classes(report)) if report.get("adapted_sites") else {}
    if not section:
        return None
    metric, digits, shown = ("assd_mm", 2, "ASSD") if section["own"] else ("hd95_mm", 1, "HD95")
    table = Table(title=section["title"], caption=f"mean over classes: Dice, {shown} in mm", box=SIMPLE_HEAD)
    table.add_column("test cases", no_wrap=True)
    for model in section["models"]:
        table.add_column(Text(model.replace(" ", "\n")), justify="right", no_wrap=True)
    parts = {group["title"]: group for group in section["groups"]} | section["sites"]
    for title, part in parts.items():
        table.add_row(Text(title), *(_cell(part["models"][model], metric, digits) for model in section["models"]))
    return table


def _cell(means: Mapping | None, metric: str, digits: int) -> str:
    if means is None:
        return UNDEFINED
    return f"{number(means['mean']['dice'])} {number(means['mean'][metric], digits):>5}"
