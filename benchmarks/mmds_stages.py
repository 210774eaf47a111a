"""What a continual federation knows after every stage, class by class: learnt, kept or forgotten.

    python benchmarks/mmds_stages.py comparisons/mmds_stages -o stages
    python benchmarks/mmds_stages.py runs/after1 runs/after2 runs/after3 -o stages --own runs/stage1 runs/stage2

Given are a folder of 'fedpartial compare', of which the runs of mmds_evaluate count in the order of its plan, or run
folders, one after each stage. Writes stages.md and stages.png: Dice / ASSD in mm of every class after every stage, on
the external set, over the cases of all sites and at each site, means over seeds; "kept" is the Dice after the last
stage less the best one before. A class that nobody has brought yet scores 0. Every site before and after comes from the
stages' own runs (of the comparison, or after --own): its local model, trained alone, beside the global and the
personalised one.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from published_table import markdown

from fedpartial.cli.compare_plan import UNSAFE
from fedpartial.evaluation.adaptation import adaptation_section
from fedpartial.evaluation.annotated import all_classes
from fedpartial.evaluation.formats import UNDEFINED, class_label, number
from fedpartial.evaluation.report import read_report
from fedpartial.evaluation.summary import pooled_means, statistics

EVALUATE = "mmds_evaluate"
Stages = Mapping[str, Sequence[Mapping]]
"""Name of a stage -> its reports, one for each seed."""
EXTERNAL, ALL_SITES = "external set", "all sites"
METRICS = ("dice", "assd_mm")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="a comparison, or run folders in the order of stages")
    parser.add_argument("--own", type=Path, nargs="*", default=[], metavar="RUN", help="runs of the stages themselves")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder for stages.md and stages.png")
    given = parser.parse_args()
    runs = read_runs(given.folders)
    stages = only_evaluations(runs)
    text = page(stages, {**runs, **read_runs(given.own)})
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "stages.md").write_text(text, encoding="utf-8")
    (given.out / "stages.png").write_bytes(draw(stages))
    print(text)


def read_runs(folders: Sequence[Path]) -> Stages:
    """Reports by name, in order: of a comparison by its methods, else each folder by its own name."""
    if len(folders) == 1 and (folders[0] / "comparison.json").is_file():
        return _of_comparison(folders[0])
    return {folder.name: [read_report(folder / "report.json")] for folder in folders}


def _of_comparison(folder: Path) -> Stages:
    methods = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))["methods"]
    found = {
        name: sorted(folder.glob(f"runs/{UNSAFE.sub('-', name).strip('-.')}/seed*/report.json")) for name in methods
    }
    return {name: [read_report(path) for path in paths] for name, paths in found.items() if paths}


def only_evaluations(runs: Stages) -> Stages:
    """Those of mmds_evaluate; all where none is."""
    chosen = {name: reports for name, reports in runs.items() if all(r["job"] == EVALUATE for r in reports)}
    return chosen or runs


def places(stages: Stages) -> list[str]:
    sites = dict.fromkeys(site for reports in stages.values() for report in reports for site in report["sites"])
    external = any(report["external"] for reports in stages.values() for report in reports)
    return [*([EXTERNAL] if external else []), ALL_SITES, *sites]


def value(reports: Sequence[Mapping], place: str, name: str, metric: str) -> float | None:
    """Of a class at a place, over its cases, mean over the seeds; None where no seed has one."""
    found = (pooled_means(_summaries(report, place), metric).get(name) for report in reports)
    return statistics(entry[0] for entry in found if entry)["mean"]


def _summaries(report: Mapping, place: str) -> list[Mapping]:
    if place == EXTERNAL:
        return [report["external"]]
    sites = report["sites"]
    return list(sites.values()) if place == ALL_SITES else [sites.get(place, {})]


def classes_at(stages: Stages, place: str) -> list[str]:
    """Those with a Dice after some stage, in the order of the label space."""
    known = dict.fromkeys(name for reports in stages.values() for r in reports for name in all_classes(r))
    return [name for name in known if any(value(r, place, name, "dice") is not None for r in stages.values())]


def rows(stages: Stages, place: str) -> Iterator[tuple[str, ...]]:
    """Of each class: Dice / ASSD after every stage, and what is kept."""
    for name in classes_at(stages, place):
        scores = [[value(reports, place, name, metric) for metric in METRICS] for reports in stages.values()]
        yield (class_label(name), *(pair(*found) for found in scores), kept([dice for dice, _ in scores]))


def pair(dice: float | None, assd: float | None) -> str:
    return UNDEFINED if dice is None else f"{number(dice)} / {number(assd, 2)}"


def kept(dice: Sequence[float | None]) -> str:
    """The last Dice less the best of the stages before."""
    before = [found for found in dice[:-1] if found is not None]
    return UNDEFINED if not before or dice[-1] is None else f"{dice[-1] - max(before):+.3f}"


def own_rows(runs: Stages) -> Iterator[tuple[str, ...]]:
    """Of each stage's run and site: Dice / ASSD of its local, the global and its personalised model, first seed."""
    for stage, (report, *_) in runs.items():
        section = adaptation_section(report, all_classes(report))
        if section.get("own"):
            for site, found in section["sites"].items():
                means = (found["models"].get(name) for name in OWN_HEAD[2:])
                yield (
                    stage,
                    site,
                    *(UNDEFINED if m is None else pair(*(m["mean"][k] for k in METRICS)) for m in means),
                )


OWN_HEAD = ("stage", "site", "local model", "global model", "personalised")


def page(stages: Stages, runs: Stages) -> str:
    """All tables as Markdown."""
    head = ("class", *stages, "kept")
    parts = [
        f"{place.capitalize()}, Dice / ASSD in mm:\n\n{markdown(head, rows(stages, place))}" for place in places(stages)
    ]
    if own := list(own_rows(runs)):
        parts.append(
            f"Every site before and after, mean over its classes, Dice / ASSD in mm:\n\n{markdown(OWN_HEAD, own)}"
        )
    return "\n\n".join(parts) + "\n"


def draw(stages: Stages) -> bytes:
    """PNG: a heat map of Dice for each place, classes by stages; grey where nothing was scored."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = places(stages)
    columns = min(3, len(shown))
    lines = -(-len(shown) // columns)
    figure = Figure(figsize=(1.2 + columns * (1.4 + 0.62 * len(stages)), 3.2 * lines), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for ax, place in zip(axes, shown, strict=False):
        picture = _heat_map(ax, stages, place)
    for ax in axes[len(shown) :]:
        ax.set_axis_off()
    figure.colorbar(picture, ax=list(axes), label="Dice", shrink=0.6)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return buffer.getvalue()


def _heat_map(ax, stages: Stages, place: str):
    from matplotlib import colormaps

    names = classes_at(stages, place)
    dice = np.array([[value(r, place, name, "dice") for r in stages.values()] for name in names], dtype=float)
    colours = colormaps["YlGnBu"].with_extremes(bad="#dddddd")
    picture = ax.imshow(dice.reshape(len(names), len(stages)), vmin=0, vmax=1, cmap=colours, aspect=0.6)
    for (row, column), found in np.ndenumerate(dice):
        if not np.isnan(found):
            ax.text(
                column,
                row,
                f"{found:.2f}",
                ha="center",
                va="center",
                fontsize=7,
                color="white" if found > 0.6 else "#222",
            )
    ax.set_xticks(range(len(stages)), list(stages), rotation=30, ha="right", fontsize=7)
    ax.set_yticks(range(len(names)), [class_label(name) for name in names], fontsize=7)
    ax.set_title(place, fontsize=9)
    ax.set_anchor("N")
    return picture


if __name__ == "__main__":
    main()
