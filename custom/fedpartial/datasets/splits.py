"""Splits into training, validation and testing: the same on every machine, whatever else lies in the folder.

Cases are taken in the order of the SHA-256 of "SEED:CASE": no random generator and no file system has a say, and one
case more moves the borders between the splits but never the order.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from fedpartial.data.datalist import SPLITS
from fedpartial.datasets.layout import Found, FoundCase
from fedpartial.datasets.papers import PAPERS, PaperSplit, Sizes
from fedpartial.errors import ConfigError

DEFAULT = "60/20/20"
PUBLISHED, ALL_TESTING = "published", "all-testing"
WORDS = (PUBLISHED, ALL_TESTING, *PAPERS)
EXPECTED = f"percent such as {DEFAULT}, numbers of cases such as 24,0,6, or one of {', '.join(WORDS)}"
OPTION = "--split"
Assigned = dict[str, list[FoundCase]]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What --split says. percent or counts: of training, validation, testing; word: one of WORDS."""

    text: str
    percent: Sizes | None = None
    counts: Sizes | None = None
    word: str | None = None


def parse_rule(text: str) -> Rule:
    """Raises ConfigError for what is no rule."""
    text = text.strip()
    if text in WORDS:
        return Rule(text=text, word=text)
    for separator, kind in (("/", "percent"), (",", "counts")):
        parts = [part.strip() for part in text.split(separator)]
        if len(parts) == len(SPLITS) and all(part.isascii() and part.isdigit() for part in parts):
            sizes = tuple(int(part) for part in parts)
            if kind == "percent" and sum(sizes) != 100:
                raise _error(text, "three percentages whose sum is 100", f"They add up to {sum(sizes)}.")
            return Rule(text=text, **{kind: sizes})
    raise _error(text, EXPECTED, "Three whole numbers: training, validation, testing.")


def sizes_of_percent(total: int, percent: Sizes) -> Sizes:
    """Whole numbers with the sum ``total``: rounded down, and the rest to the largest remainders, the first of equals.

    60/20/20 of 210, 131, 281 and 41 cases is 126/42/42, 79/26/26, 169/56/56 and 25/8/8, ConDistFL's datalists.
    """
    sizes = [total * part // 100 for part in percent]
    remainders = [total * part % 100 for part in percent]
    for index in sorted(range(len(sizes)), key=lambda index: -remainders[index])[: total - sum(sizes)]:
        sizes[index] += 1
    return tuple(sizes)


def assign(found: Found, rule: Rule, seed: int, patient_pattern: str | None = None) -> tuple[Assigned, dict[str, int]]:
    """Cases by split, each split sorted by case, and what the rule leaves out, by reason.

    ``patient_pattern``: a regular expression whose first group (or whole match) in a case's id is the patient; all
    cases of a patient lie in one split. Raises ConfigError where the rule does not fit to the cases.
    """
    if rule.word == PUBLISHED:
        return _published(found, patient_pattern)
    paper = _paper_split(found, rule.word) if rule.word in PAPERS else None
    cases = _cases_of_paper(found, paper) if paper else found.labelled
    sizes = paper.sizes if paper else _sizes(rule, len(cases))
    _check_total(len(cases), sizes, rule)
    assigned = _fill(cases, sizes, str if paper and paper.by_name else _drawn(seed), patient_pattern)
    _check_exact(assigned, sizes, rule)
    unused = _count(f"cases that {rule.word} does not use", len(found.labelled) - len(cases))
    return assigned, _count("images without labels", len(found.unlabelled)) | unused


def _sizes(rule: Rule, number: int) -> Sizes:
    if rule.percent:
        return sizes_of_percent(number, rule.percent)
    return rule.counts or (0, 0, number)


def _count(reason: str, number: int) -> dict[str, int]:
    return {reason: number} if number else {}


def _drawn(seed: int) -> Callable[[str], str]:
    return lambda patient: hashlib.sha256(f"{seed}:{patient}".encode()).hexdigest()


def _published(found: Found, patient_pattern: str | None) -> tuple[Assigned, dict[str, int]]:
    """As the data set has it; images without labels are test images, of which only those of its test set count."""
    if patient_pattern:
        raise _error(PUBLISHED, "a split of our own with --patient-pattern", "Take one of the two options away.")
    tests = [case for case in found.unlabelled if case.split == "testing"]
    cases = [*found.labelled, *tests]
    assigned = {split: sorted((c for c in cases if c.split == split), key=lambda case: case.id) for split in SPLITS}
    return assigned, _count("images without labels", len(found.unlabelled) - len(tests))


def _paper_split(found: Found, paper: str) -> PaperSplit:
    split = PAPERS[paper].get(found.layout.paper_key or "")
    if split is None:
        known = ", ".join(PAPERS[paper])
        remedy = f"Use {DEFAULT}, or numbers of cases."
        raise _error(f"{paper} for {found.layout.name}", f"a data set of that paper ({known})", remedy)
    return split


def _cases_of_paper(found: Found, split: PaperSplit) -> Sequence[FoundCase]:
    """All, or where these are more than the paper has, those of the published split that it takes."""
    if split.part is None or len(found.labelled) == sum(split.sizes):
        return found.labelled
    return [case for case in found.labelled if case.split == split.part]


def _check_total(number: int, sizes: Sizes, rule: Rule) -> None:
    if number != sum(sizes):
        whose, mend = ("the paper's", "Complete the download") if rule.word else ("the numbers", "Correct them")
        expected = f"{sum(sizes)}: {whose} are {'/'.join(map(str, sizes))}"
        raise _error(f"{rule.text} for {number} labelled cases", expected, f"{mend}, or use {DEFAULT}.")


def _check_exact(assigned: Assigned, sizes: Sizes, rule: Rule) -> None:
    """A patient with several cases may lie on a border; with percent that is as near as can be."""
    got = tuple(len(assigned[split]) for split in SPLITS)
    if got != sizes and rule.percent is None:
        remedy = "Use percent, or leave --patient-pattern out."
        raise _error("/".join(map(str, got)), f"{'/'.join(map(str, sizes))} without dividing a patient", remedy)


def _fill(cases: Sequence[FoundCase], sizes: Sizes, key: Callable[[str], str], pattern: str | None) -> Assigned:
    patients: dict[str, list[FoundCase]] = {}
    for case in cases:
        patients.setdefault(_patient(case, pattern), []).append(case)
    assigned: Assigned = {split: [] for split in SPLITS}
    done, borders = 0, (sizes[0], sizes[0] + sizes[1])
    for patient in sorted(patients, key=key):
        split = SPLITS[sum(done >= border for border in borders)]
        assigned[split] += patients[patient]
        done += len(patients[patient])
    return {split: sorted(members, key=lambda case: case.id) for split, members in assigned.items()}


def num_patients(cases: Iterable[FoundCase], pattern: str | None) -> int:
    """How many patients the cases are of; without a pattern each is a patient."""
    return len({_patient(case, pattern) for case in cases})


def _patient(case: FoundCase, pattern: str | None) -> str:
    if pattern is None:
        return case.id
    try:
        match = re.search(pattern, case.id)
    except re.error as error:
        raise _pattern_error(f"{pattern} ({error})", "a regular expression") from error
    if match is None:
        raise _pattern_error(f"{pattern}, which does not fit case {case.id!r}", "a patient in every case's name")
    return match[1] if match.re.groups else match[0]


def _pattern_error(got: str, expected: str) -> ConfigError:
    remedy = r"For example '^(P\d+)_' for P12_first.nii.gz and P12_second.nii.gz."
    return ConfigError(where="--patient-pattern", field="pattern", got=got, expected=expected, remedy=remedy)


def _error(got: object, expected: str, remedy: str) -> ConfigError:
    return ConfigError(where=OPTION, field="split", got=got, expected=expected, remedy=remedy)
