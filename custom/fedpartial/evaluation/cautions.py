"""What a reader of a report must not overlook, found in its numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from fedpartial.evaluation.formats import class_label, percent, plural
from fedpartial.evaluation.record import EXTERNAL
from fedpartial.evaluation.withhold import is_withheld
from fedpartial.labels import LabelSpace

LEAKAGE_LIMIT = 0.05
FEW_CASES = 5


def find_cautions(report: Mapping, space: LabelSpace) -> list[str]:
    """Sentences on the content of report.json, the gravest first; [] if there is nothing to say."""
    sets = ({EXTERNAL: report["external"]} if report["external"] else {}) | report["sites"]
    found = [
        *_zero_classes(sets),
        *_unscored(sets),
        *_withheld(sets),
        *_missing_classes(sets, space),
        *_missed(sets),
        *_leaking(sets, space),
    ]
    found += _absent_sites(report)
    if not report["external"]:
        found.append("There is no external set: every number comes from hospitals that took part in training.")
    found += _few_cases(sets)
    return found


def _entries(sets: Mapping) -> Iterator[tuple[str, str, Mapping]]:
    for place, summary in sets.items():
        for name, entry in summary.items():
            yield _place(place), class_label(name), entry


def _place(name: str) -> str:
    return "the external set" if name == EXTERNAL else name


def _zero_classes(sets: Mapping) -> Iterator[str]:
    for place, name, entry in _entries(sets):
        if entry["dice"]["n"] and entry["dice"]["mean"] == 0:
            yield f"The model never found {name} in {place}: Dice 0 in {plural(entry['dice']['n'], 'case')}."


def _unscored(sets: Mapping) -> Iterator[str]:
    for place, name, entry in _entries(sets):
        if entry["dice"]["n"] == 0:
            yield f"No case of {place} has a Dice for {name}: it is annotated there, but no case contains it."


def _withheld(sets: Mapping) -> Iterator[str]:
    for place, name, entry in _entries(sets):
        if is_withheld(entry):
            yield f"{place} withholds its scores of {name}: too few cases stand behind them."


def _missing_classes(sets: Mapping, space: LabelSpace) -> Iterator[str]:
    scored = {name for summary in sets.values() for name in summary}
    if missing := [class_label(name) for name in space.classes if name not in scored]:
        yield f"Nowhere annotated, so never scored: {', '.join(missing)}."


def _missed(sets: Mapping) -> Iterator[str]:
    for place, name, entry in _entries(sets):
        if entry["missed"] and entry["dice"]["mean"]:
            yield f"In {place}, {name} is missed altogether in {entry['missed']} of {entry['dice']['n']} cases."


def _leaking(sets: Mapping, space: LabelSpace) -> Iterator[str]:
    """Organs only: a lesion is mostly confused with its own organ, which its Dice says already."""
    lesions = {class_label(name) for name in space.lesions}
    found = [
        f"{percent(entry['leakage'])} of {name} in {place}"
        for place, name, entry in _entries(sets)
        if name not in lesions and (entry["leakage"] or 0) > LEAKAGE_LIMIT
    ]
    if found:
        yield f"Reference voxels predicted as another structure: {', '.join(found)}."


def _absent_sites(report: Mapping) -> Iterator[str]:
    rounds = rounds_of_all(report)
    for site in report["sites"]:
        absent = sum(site not in r["sites"] for r in rounds)
        if absent and any(r["sites"] for r in rounds):
            yield f"{site} took no part in {absent} of {plural(len(rounds), 'round')}."


def rounds_of_all(report: Mapping) -> list[Mapping]:
    """The rounds in which every site was meant to take part."""
    return report["rounds"][report.get("pretrain_rounds", 0) :]  # reports of earlier versions know no pretraining


def _few_cases(sets: Mapping) -> Iterator[str]:
    few = {place for place, _, entry in _entries(sets) if 0 < (entry["dice"]["n"] or 0) < FEW_CASES}
    if few:
        yield f"Fewer than {FEW_CASES} cases behind some means of {', '.join(sorted(few))}: read them with their n."
