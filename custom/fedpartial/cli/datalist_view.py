"""What ``fedpartial datalist`` shows: the layouts there are, and what was found, named, split and written."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedpartial.cli.reply import SUCCESS, Reply
from fedpartial.datasets.catalogue import LAYOUTS
from fedpartial.datasets.layout import Found, Layout
from fedpartial.datasets.recognise import resembles
from fedpartial.datasets.site_writer import SitePlace
from fedpartial.datasets.splits import PUBLISHED, Assigned, Rule
from fedpartial.evaluation.formats import plural
from fedpartial.evaluation.record import EXTERNAL
from fedpartial.labels import BACKGROUND


@dataclass(frozen=True, kw_only=True)
class Made:
    """What was done. classes: raw label value -> class, None for public images. proposed: nobody named the site.
    patients: how many there are, where --patient-pattern tells them apart."""

    folder: Path
    found: Found
    recognised: bool
    preset: str
    rule: Rule
    seed: int
    assigned: Assigned
    left_out: Mapping[str, int]
    classes: Mapping[int, str] | None
    place: SitePlace
    proposed: bool
    patients: int | None

    @property
    def layout(self) -> Layout:
        return self.found.layout

    @property
    def sizes(self) -> dict[str, int]:
        """Cases of each split."""
        return {split: len(cases) for split, cases in self.assigned.items()}


def say_made(reply: Reply, made: Made) -> None:
    """The summary, and the same in the JSON object."""
    recognised = f" (recognised as {made.layout.name})" if made.recognised else ""
    reply.say(f"{made.layout.title}: {made.folder}{recognised}", "bold")
    for line in (*_site_lines(made), *_case_lines(made), *_label_lines(made)):
        reply.say(f"  {line}")
    _warn(reply, made)
    reply.say(f"wrote {made.place.site_file} and {made.place.datalist}")
    reply.say(f"next: {_next(made)}")
    reply.add(layout=made.layout.name, folder=made.folder.absolute(), site=made.place.name, preset=made.preset)
    reply.add(split=made.rule.text, seed=made.seed, cases=made.sizes, left_out=dict(made.left_out), labels=made.classes)
    reply.add(site_file=made.place.site_file.absolute(), datalist=made.place.datalist.absolute())


def _site_lines(made: Made) -> list[str]:
    lines = [f"site {made.place.name}, the usual one for it; --site NAME gives another"] if made.proposed else []
    if not made.sizes["training"] and made.place.name != EXTERNAL:
        use = f"a run can only take it as --site {EXTERNAL}, its set for final scores"
        lines.append(f"no training case: 'fedpartial evaluate' can score models on this site, {use}")
    return lines


def _case_lines(made: Made) -> list[str]:
    number, cases = len(made.found.labelled), made.layout.cases
    lines = [f"{number} labelled cases" + ("" if cases is None else f"; the complete data set has {cases}")]
    lines += [] if made.patients is None else [f"{plural(made.patients, 'patient')}, each in one split"]
    lines += [f"left out: {number} {reason}" for reason, number in made.left_out.items()]
    how = made.rule.text if made.classes is None else f"split {made.rule.text}, seed {made.seed}"
    lines.append(f"{how}: {', '.join(f'{number} {split}' for split, number in made.sizes.items())}")
    if {case.split for case in made.found.labelled} > {"training"} and made.rule.percent:
        lines.append(f"the data set has a split of its own, which --split {PUBLISHED} takes")
    return lines


def _label_lines(made: Made) -> list[str]:
    """What the values of the label files become; those without a class in one line."""
    classes, structures = made.classes or {}, made.layout.structures or {}
    used = {raw: name for raw, name in classes.items() if name != BACKGROUND}
    unused = [f"{raw} {structures.get(raw, '')}".strip() for raw in classes if raw not in used]
    named = {raw: structures.get(raw, name) for raw, name in used.items()}
    lines = [f"value {r}: {name}" + ("" if named[r] == name else f" ({named[r]})") for r, name in used.items()]
    if unused:
        lines.append(f"background, no class of preset {made.preset}: {', '.join(unused)}")
    return lines


def _warn(reply: Reply, made: Made) -> None:
    number, layout = len(made.found.labelled), made.layout
    if layout.cases is not None and number > layout.cases:
        reply.warn(f"warning: {layout.title} has {layout.cases} labelled cases, here are {number}: another data set?")
    if other := resembles(made.found, made.folder):
        reply.warn(f"warning: the folder looks like {other.title}; is {layout.name} right?")
    asked = made.rule.percent or ()
    if any(part and not size for part, size in zip(asked, made.sizes.values(), strict=False)):
        reply.warn("warning: too few cases for every split; one of them is empty")


def _next(made: Made) -> str:
    if made.classes is None:
        return f"fedpartial run mmds --preset mmds --site-config {shlex.quote(str(made.place.out))}"
    return f"fedpartial check {shlex.quote(str(made.place.site_file))}{_preset(made)}"


def _preset(made: Made) -> str:
    return "" if made.preset == "abdomen" else f" --preset {made.preset}"


def show_layouts(reply: Reply) -> int:
    """Every layout: the data set, where to get it, its licence, what the folder holds."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE, leading=1)
    for name, width in (("layout", 12), ("data set", 34), ("what the folder holds", None)):
        table.add_column(name, overflow="fold", width=width)
    for layout in LAYOUTS.values():
        size = "" if layout.cases is None else f"{layout.cases} labelled CT"
        about = "\n".join(part for part in (layout.title, size, layout.licence, layout.page) if part)
        source = "dataset.json" if layout.has_json else "--labels"
        outlines = ", ".join(layout.outlines) or f"what it outlines is said by {source}"
        table.add_row(Text(layout.name), Text(about), Text(f"{layout.looks_like}\n{outlines}"))
    reply.console.print(table)
    reply.say("auto recognises the layout. A licence says what the data may be used for: read it where you get them.")
    reply.add(layouts=[_layout_content(layout) for layout in LAYOUTS.values()])
    return SUCCESS


def _layout_content(layout: Layout) -> dict:
    facts = ("name", "title", "page", "licence", "citation", "looks_like", "cases", "outlines")
    return {fact: getattr(layout, fact) for fact in facts}
