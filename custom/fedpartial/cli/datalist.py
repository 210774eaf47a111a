"""``fedpartial datalist``: find the cases, name their classes, split them, write the site, and say what was done."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedpartial.cli.reply import SUCCESS, Reply
from fedpartial.datasets.dataset_json import read_structures
from fedpartial.datasets.layout import Found
from fedpartial.datasets.published import AUTO, LAYOUTS
from fedpartial.datasets.recognise import find_data_set
from fedpartial.datasets.site_writer import SitePlace, check_place, write_site_files
from fedpartial.datasets.splits import ALL_TESTING, DEFAULT, PUBLISHED, Assigned, Rule, assign, parse_rule
from fedpartial.datasets.structures import class_names
from fedpartial.errors import ConfigError
from fedpartial.evaluation.record import EXTERNAL, EXTERNAL_NAMES
from fedpartial.labels import BACKGROUND
from fedpartial.presets import PRESETS, get_preset
from fedpartial.sites import PUBLIC

SITE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the user gave; None where an option was left out."""

    layout: str | None
    folder: Path | None
    site: str | None
    out: Path | None
    preset: str = "abdomen"
    split: str | None = None
    seed: int = 0
    labels: str | None = None
    patient_pattern: str | None = None
    force: bool = False


def make_datalist(options: Options, reply: Reply) -> int:
    """Raises ConfigError before anything is written."""
    _check_given(options)
    rule = _rule(options)
    place = SitePlace(out=options.out.expanduser(), name=options.site)
    folder = options.folder.expanduser()
    found = find_data_set(options.layout, folder)
    check_place(place, folder, force=options.force)
    classes = None if options.site == PUBLIC else _classes(options, found, folder)
    assigned, unused = _public(found) if classes is None else assign(found, rule, options.seed, options.patient_pattern)
    _check_training(options, assigned)
    left_out = {**found.left_out, **unused}
    write_site_files(place, folder, classes, _content(found, rule, options.seed, assigned, classes is not None))
    _summarise(reply, options, found, rule, assigned, left_out, classes, place)
    return SUCCESS


def show_layouts(reply: Reply) -> int:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE, leading=1)
    for name, width in (("layout", 12), ("data set", 34), ("what the folder holds", None)):
        table.add_column(name, overflow="fold", width=width)
    for layout in LAYOUTS.values():
        size = "" if layout.cases is None else f"{layout.cases} labelled CT"
        about = "\n".join(part for part in (layout.title, size, layout.licence, layout.page) if part)
        outlines = ", ".join(layout.outlines) or (
            "classes by dataset.json" if layout.has_json else "classes by --labels"
        )
        table.add_row(Text(layout.name), Text(about), Text(f"{layout.looks_like}\n{outlines}"))
    reply.console.print(table)
    reply.say("auto recognises the layout. A licence says what the data may be used for: read it where you get them.")
    reply.add(layouts=[_layout_content(layout) for layout in LAYOUTS.values()])
    return SUCCESS


def _layout_content(layout) -> dict:
    facts = ("name", "title", "page", "licence", "citation", "looks_like", "cases", "outlines")
    return {fact: getattr(layout, fact) for fact in facts}


def _check_given(options: Options) -> None:
    layouts = ", ".join((*LAYOUTS, AUTO))
    needed = {
        "LAYOUT": (options.layout, f"a layout ({layouts})", "'fedpartial datalist --list' explains them."),
        "FOLDER": (options.folder, "the folder of the data set", "For example: fedpartial datalist auto Task03_Liver"),
        "--site": (
            options.site,
            "the site's name",
            "For example --site liver; the jobs' sites are in their meta.json.",
        ),
        "--out": (options.out, "a folder for the two files", "For example -o my_sites"),
    }
    for where, (value, expected, remedy) in needed.items():
        if value is None:
            raise _error(where, "value", "nothing", expected, remedy)
    if not SITE_NAME.fullmatch(options.site) or options.site in set(EXTERNAL_NAMES) - {EXTERNAL}:
        remedy = "It is the name of a file and of a FLARE client."
        raise _error("--site", "name", options.site, "letters, digits, '_', '-' and '.'", remedy)
    if options.preset not in PRESETS:
        raise _error("--preset", "name", options.preset, f"one of {', '.join(PRESETS)}", "Correct its spelling.")


def _rule(options: Options) -> Rule:
    if options.site == PUBLIC and (options.split or options.labels):
        remedy = "Take --split and --labels away: public images are not split, and their labels not used."
        raise _error("--site", "name", PUBLIC, "a site with labels", remedy)
    if options.site == PUBLIC:
        return Rule(text="images without labels")
    return parse_rule(options.split or (ALL_TESTING if options.site == EXTERNAL else DEFAULT))


def _classes(options: Options, found: Found, folder: Path) -> dict[int, str]:
    given, layout = _given_labels(options.labels), found.layout
    if layout.structures is not None:
        structures = layout.structures
    elif layout.has_json:
        structures = read_structures(folder, given)
    elif given:
        structures = {}
    else:
        remedy = "For example --labels 1=liver,2=liver_tumor; 'background' leaves a value out."
        raise _error("--labels", "value", "nothing", f"what the label values of {folder} mean", remedy)
    return class_names(structures, given, get_preset(options.preset).label_space, options.preset)


def _given_labels(text: str | None) -> dict[int, str]:
    given: dict[int, str] = {}
    for part in text.split(",") if text else ():
        raw, _, name = (piece.strip() for piece in part.partition("="))
        if not raw.isascii() or not raw.isdigit() or not name or int(raw) in given:
            raise _error("--labels", "value", part, "each label value once, VALUE=CLASS", "For example 1=liver.")
        given[int(raw)] = name
    return given


def _public(found: Found) -> tuple[Assigned, dict[str, int]]:
    cases = sorted((*found.labelled, *found.unlabelled), key=lambda case: case.id)
    return {"training": cases}, {}


def _check_training(options: Options, assigned: Assigned) -> None:
    training = len(assigned.get("training", ()))
    if options.site == EXTERNAL and (training or assigned["validation"]):
        remedy = f"Use --split {ALL_TESTING}, or another --site."
        raise _error("--split", "training", training, "test cases only: nobody trains on the external set", remedy)
    if options.site != EXTERNAL and not training:
        remedy = f"A set for final scores alone is --site {EXTERNAL}."
        raise _error("--split", "training", 0, "at least one training case", remedy)


def _content(found: Found, rule: Rule, seed: int, assigned: Assigned, labelled: bool) -> dict:
    """The Decathlon datalist, with how it was made."""
    made = (
        {"layout": found.layout.name, "split": rule.text, "seed": seed} if labelled else {"layout": found.layout.name}
    )
    entries = {
        split: [
            {"image": case.image, **({"label": case.label} if labelled and case.label else {})}
            for case in assigned[split]
        ]
        for split in assigned
    }
    return {"made_from": made, **entries}


def _summarise(
    reply: Reply,
    options: Options,
    found: Found,
    rule: Rule,
    assigned: Assigned,
    left_out: Mapping[str, int],
    classes: Mapping[int, str] | None,
    place: SitePlace,
) -> None:
    layout, sizes = found.layout, {split: len(cases) for split, cases in assigned.items()}
    reply.say(f"{layout.title}: {options.folder}{_recognised(options, layout.name)}", "bold")
    for line in (_cases_line(found), *(f"left out: {number} {reason}" for reason, number in left_out.items())):
        reply.say(f"  {line}")
    how = rule.text if classes is None else f"split {rule.text}, seed {options.seed}"
    reply.say(f"  {how}: {', '.join(f'{number} {split}' for split, number in sizes.items())}")
    for line in _label_lines(classes or {}, layout.structures or {}, options.preset):
        reply.say(f"  {line}")
    _warn(reply, found, rule, sizes)
    reply.say(f"wrote {place.site_file} and {place.datalist}")
    reply.say(f"next: {_next(place, classes)}")
    reply.add(layout=layout.name, folder=options.folder.absolute(), site=options.site, preset=options.preset)
    reply.add(split=rule.text, seed=options.seed, cases=sizes, left_out=dict(left_out), labels=classes)
    reply.add(site_file=place.site_file.absolute(), datalist=place.datalist.absolute())


def _recognised(options: Options, name: str) -> str:
    return f" (recognised as {name})" if options.layout == AUTO else ""


def _next(place: SitePlace, classes: Mapping[int, str] | None) -> str:
    if classes is None:
        return f"fedpartial run mmds --preset mmds --site-config {shlex.quote(str(place.out))}"
    return f"fedpartial check {shlex.quote(str(place.site_file))}"


def _cases_line(found: Found) -> str:
    number, cases = len(found.labelled), found.layout.cases
    return f"{number} labelled cases" + ("" if cases is None else f"; the complete data set has {cases}")


def _label_lines(classes: Mapping[int, str], structures: Mapping[int, str], preset: str) -> list[str]:
    """What the values of the label files become; those without a class in one line."""
    used = {raw: name for raw, name in classes.items() if name != BACKGROUND}
    unused = [f"{raw} {structures.get(raw, '')}".strip() for raw in classes if raw not in used]
    lines = []
    for raw, name in used.items():
        structure = structures.get(raw, name)
        lines.append(f"value {raw}: {name}" + ("" if structure == name else f" ({structure})"))
    return lines + (
        [f"background, because preset {preset} has no class for them: {', '.join(unused)}"] if unused else []
    )


def _warn(reply: Reply, found: Found, rule: Rule, sizes: Mapping[str, int]) -> None:
    layout = found.layout
    if layout.cases is not None and len(found.labelled) > layout.cases:
        reply.warn(
            f"warning: {layout.title} has {layout.cases} labelled cases; is this another data set or two copies?"
        )
    if {case.split for case in found.labelled} > {"training"} and rule.percent:
        reply.say(f"  the data set has a split of its own, which --split {PUBLISHED} takes")
    if rule.percent and not all(number for number, part in zip(sizes.values(), rule.percent, strict=True) if part):
        reply.warn("warning: too few cases for every split; one of them is empty")


def _error(where: str, field: str, got: object, expected: str, remedy: str) -> ConfigError:
    return ConfigError(where=where, field=field, got=got, expected=expected, remedy=remedy)
