"""``fedpartial datalist``: find the cases, name their classes, split them, and write the site."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from fedpartial.cli.datalist_view import Made, say_made
from fedpartial.cli.reply import SUCCESS, Reply
from fedpartial.datasets.catalogue import AUTO, LAYOUTS
from fedpartial.datasets.dataset_json import read_structures
from fedpartial.datasets.layout import Found, FoundCase, Layout
from fedpartial.datasets.papers import PAPER_PRESETS
from fedpartial.datasets.recognise import find_data_set
from fedpartial.datasets.site_writer import SitePlace, check_place, write_site_files
from fedpartial.datasets.splits import ALL_TESTING, DEFAULT, Assigned, Rule, assign, num_patients, parse_rule
from fedpartial.datasets.structures import class_names
from fedpartial.errors import ConfigError
from fedpartial.evaluation.record import EXTERNAL, EXTERNAL_NAMES
from fedpartial.presets import PRESETS, get_preset
from fedpartial.sites import PUBLIC

DEFAULT_PRESET = "abdomen"
SITE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the user gave; None where an option was left out."""

    layout: str | None
    folder: Path | None
    site: str | None
    out: Path | None
    preset: str = DEFAULT_PRESET
    split: str | None = None
    seed: int = 0
    labels: str | None = None
    patient_pattern: str | None = None
    force: bool = False


def preset_of(split: str | None) -> str:
    """The preset where none is given: a paper's split asks for the paper's classes."""
    return PAPER_PRESETS.get((split or "").strip(), DEFAULT_PRESET)


def make_datalist(options: Options, reply: Reply) -> int:
    """Raises ConfigError before anything is written."""
    _check_given(options)
    rule = _rule(options)
    folder = options.folder.expanduser()
    found = find_data_set(options.layout, folder)
    proposed = options.site is None
    options = replace(options, site=_proposed_site(found.layout) if proposed else options.site)
    place = SitePlace(out=options.out.expanduser(), name=options.site)
    check_place(place, folder, force=options.force)
    classes = None if options.site == PUBLIC else _classes(options, found, folder)
    assigned, unused = _public(found) if classes is None else assign(found, rule, options.seed, options.patient_pattern)
    _check_external(options, assigned)
    made = Made(
        folder=folder,
        found=found,
        recognised=options.layout == AUTO,
        preset=options.preset,
        rule=rule,
        seed=options.seed,
        assigned=assigned,
        left_out={**found.left_out, **unused},
        classes=classes,
        place=place,
        proposed=proposed,
        patients=num_patients(found.labelled, options.patient_pattern) if options.patient_pattern else None,
    )
    write_site_files(place, folder, classes, _datalist(made))
    say_made(reply, made)
    return SUCCESS


def _check_given(options: Options) -> None:
    layouts = ", ".join((*LAYOUTS, AUTO))
    needed = {
        "LAYOUT": (options.layout, f"a layout ({layouts})", "'fedpartial datalist --list' explains them."),
        "FOLDER": (options.folder, "the folder of the data set", "For example: fedpartial datalist auto Task03_Liver"),
        "--out": (options.out, "a folder for the two files", "For example -o my_sites"),
    }
    for where, (value, expected, remedy) in needed.items():
        if value is None:
            raise _error(where, "value", "nothing", expected, remedy)
    if options.site is not None and not _may_be_site(options.site):
        remedy = "It is the name of a file and of a FLARE client."
        raise _error("--site", "name", options.site, "letters, digits, '_', '-' and '.'", remedy)
    if options.preset not in PRESETS:
        raise _error("--preset", "name", options.preset, f"one of {', '.join(PRESETS)}", "Correct its spelling.")


def _may_be_site(name: str) -> bool:
    return SITE_NAME.fullmatch(name) is not None and name not in set(EXTERNAL_NAMES) - {EXTERNAL}


def _proposed_site(layout: Layout) -> str:
    """ConfigError for data that may be any site's."""
    if layout.site is None:
        remedy = "For example --site liver; a job's meta.json names its sites."
        raise _error("--site", "value", "nothing", f"the site's name, as {layout.name} may be that of any", remedy)
    return layout.site


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


def _check_external(options: Options, assigned: Assigned) -> None:
    training = len(assigned.get("training", ()))
    if options.site == EXTERNAL and (training or assigned["validation"]):
        remedy = f"Use --split {ALL_TESTING}, or another --site."
        raise _error("--split", "training", training, "test cases only: nobody trains on the external set", remedy)


def _datalist(made: Made) -> dict:
    """The Decathlon datalist, with how it was made."""
    how = {"layout": made.layout.name, "split": made.rule.text, "seed": made.seed}
    return {
        "made_from": how,
        **{split: [_entry(case, made) for case in made.assigned[split]] for split in made.assigned},
    }


def _entry(case: FoundCase, made: Made) -> dict[str, str]:
    labelled = case.label is not None and made.classes is not None
    return {"image": case.image, **({"label": case.label} if labelled else {})}


def _error(where: str, field: str, got: object, expected: str, remedy: str) -> ConfigError:
    return ConfigError(where=where, field=field, got=got, expected=expected, remedy=remedy)
