"""What ``fedpartial check`` shows of a site: plain values for --json, tables for people, rows for --csv."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from fedpartial.cli.reply import Reply, fault_content
from fedpartial.data.faults import Fault
from fedpartial.data.site_survey import Range, SiteSurvey
from fedpartial.evaluation.formats import UNDEFINED, class_label, plural, size

if TYPE_CHECKING:
    from rich.table import Table

UNNAMED_VALUES = "unnamed label values"
AXES = ("along axis 1", "along axis 2", "along axis 3")
RANGED = ("shape", "spacing_mm", "intensities")
INTENSITIES = ("lowest", "percentile 0.5", "percentile 99.5", "highest")
CSV_COLUMNS = ("site", "level", "kind", "file", "field", "got", "expected", "remedy")


def show_site(reply: Reply, survey: SiteSurvey, preset: str) -> None:
    """Everything about one site, faults last, so that they stand where the reader is."""
    splits = ", ".join(f"{split} {number}" for split, number in survey.by_split.items())
    reply.say(f"\nsite {survey.site.name}: {plural(len(survey.cases), 'case')} ({splits}), preset {preset}", "bold")
    if any(found.annotated for found in survey.classes):
        reply.console.print(_class_table(survey))
    if any(case.shape for case in survey.cases):
        reply.console.print(_scan_table(survey))
        reply.say(f"orientations: {_counted(survey.orientations)}")
        disk, memory = size(survey.stored_bytes), size(survey.preparing_bytes)
        reply.say(f"prepared cases: about {disk} in {survey.site.cache_dir}; about {memory} of memory for the largest")
    if survey.remarks:
        reply.console.print(_fault_table(survey.remarks, survey.site.data_root, "warnings (no faults)", "yellow"))
    if survey.faults:
        reply.console.print(_fault_table(survey.faults, survey.site.data_root, "faults", "red"))


def content(survey: SiteSurvey) -> dict:
    """Of --json."""
    return {
        "site": survey.site.name,
        "file": survey.site.where,
        "cases": survey.by_split,
        "classes": [asdict(found) for found in survey.classes],
        "orientations": survey.orientations,
        **{field: [asdict(found) for found in survey.ranges(field)] for field in RANGED},
        "prepared_bytes": survey.stored_bytes,
        "preparing_bytes": survey.preparing_bytes,
        "warnings": [{"kind": remark.kind, **fault_content(remark)} for remark in survey.remarks],
        "faults": [{"kind": fault.kind, **fault_content(fault)} for fault in survey.faults],
    }


def write_csv(path: Path, surveys: Sequence[SiteSurvey]) -> None:
    """One row for every fault and every warning."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(CSV_COLUMNS)
        writer.writerows(row for survey in surveys for row in _rows(survey))


def _rows(survey: SiteSurvey) -> Iterator[tuple]:
    for level, found in (("fault", survey.faults), ("warning", survey.remarks)):
        for one in found:
            yield survey.site.name, level, one.kind, one.file, one.field, one.got, one.expected, one.remedy


def _class_table(survey: SiteSurvey) -> Table:
    table = _table("class", "cases with it", "volume (ml): median", "smallest", "largest")
    for found in survey.classes:
        volume = found.volume_ml
        shown = (volume.median, volume.smallest, volume.largest) if volume else (None,) * 3
        present = f"{found.present} of {found.annotated}"
        table.add_row(class_label(found.name), present, *(_number(value) for value in shown))
    return table


def _scan_table(survey: SiteSurvey) -> Table:
    table = _table("scans", "median", "smallest", "largest")
    for field, names in (("shape", AXES), ("spacing_mm", AXES), ("intensities", INTENSITIES)):
        what = {"shape": "voxels", "spacing_mm": "spacing (mm)", "intensities": "intensity (HU)"}[field]
        for name, found in zip(names, survey.ranges(field), strict=False):
            table.add_row(f"{what}, {name}", *_shown(found))
    return table


def _fault_table(faults: Sequence[Fault], root: Path, title: str, style: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title, style=style), title_justify="left", box=SIMPLE_HEAD, show_lines=True)
    table.add_column("what", ratio=3, overflow="fold")
    table.add_column("files", justify="right")
    table.add_column("one of them", ratio=6, overflow="fold")
    table.add_column("remedy", ratio=5, overflow="fold")
    for kind, same in _by_kind(faults).items():
        files = str(len({fault.file for fault in same}))
        shown = _example(same[0], root) + (_all_values(same) if kind == UNNAMED_VALUES else "")
        table.add_row(Text(kind, style=style), files, Text(shown), Text(same[0].remedy))
    return table


def _all_values(faults: Sequence[Fault]) -> str:
    """The values of all files, which one file alone does not show."""
    values = sorted({int(value) for fault in faults for value in re.findall(r"\b\d+\b", str(fault.got).split("(")[0])})
    return f"; in all files: {', '.join(map(str, values))}" if len(faults) > 1 else ""


def _by_kind(faults: Sequence[Fault]) -> dict[str, list[Fault]]:
    """Most frequent first."""
    found: dict[str, list[Fault]] = {}
    for fault in faults:
        found.setdefault(fault.kind or fault.field, []).append(fault)
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def _example(fault: Fault, root: Path) -> str:
    file = fault.file.relative_to(root) if fault.file.is_relative_to(root) else fault.file
    return f"{file}: got {fault.got}; expected {fault.expected}".replace(f"{root}/", "")


def _table(first: str, *others: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD)
    table.add_column(first, overflow="fold")
    for other in others:
        table.add_column(other, justify="right")
    return table


def _shown(found: Range) -> tuple[str, str, str]:
    return _number(found.median), _number(found.smallest), _number(found.largest)


def _number(value: float | None) -> str:
    if value is None:
        return UNDEFINED
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} ({number})" for name, number in counts.items())
