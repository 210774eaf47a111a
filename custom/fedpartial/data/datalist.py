"""Decathlon datalists: which files belong to which split of a site."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from fedpartial.errors import ConfigError, check_keys
from fedpartial.sites import SiteConfig

SPLITS = ("training", "validation", "testing")
"""Splits by their Decathlon names; a datalist may also write 'test' for 'testing'."""

ANNOTATED_SPLITS = ("training", "validation")
ENTRY_KEYS = ("image", "label", "labels")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One entry of a datalist; ``labels`` are the classes it annotates, None = those of its site."""

    index: int
    split: str
    image: Path
    label: Path | None
    labels: tuple[str, ...] | None

    @property
    def field(self) -> str:
        """Where the case stands in its datalist."""
        return f"{self.split}[{self.index}]"


def read_datalist(site: SiteConfig) -> dict[str, list[Case]]:
    """All cases of a site by split; every split of SPLITS has a list, of which some may be empty (the external set
    has test cases only).

    Paths are relative to ``site.data_root``. Raises ConfigError for what is wrong with the list itself;
    whether the files exist and fit is for fedpartial.data.integrity.
    """
    given = _read_json(site.datalist)
    cases = {split: _read_split(site, split, given.get(split, [])) for split in SPLITS}
    if not any(cases.values()):
        raise _error(site, "training", [], "at least one case", "List the annotated training cases.")
    _refuse_repeated_images(site, cases)
    return cases


def _read_json(path: Path) -> dict:
    try:
        given = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(
            where=str(path),
            field="(file)",
            got=str(error),
            expected="readable JSON",
            remedy='Write, for example: {"training": [{"image": "a.nii.gz", "label": "a_label.nii.gz"}]}',
        ) from error
    return _normalise_test(given, path)


def _normalise_test(given: object, path: Path) -> dict:
    allowed = list(given) if isinstance(given, dict) else ()
    check_keys(given, allowed, ("training",), where=str(path))
    if "test" in given and "testing" in given:
        raise ConfigError(
            where=str(path),
            field="test",
            got="both 'test' and 'testing'",
            expected="one of the two",
            remedy="Move all test cases to 'testing'.",
        )
    return {**given, "testing": given.get("testing", given.get("test", []))}


def _read_split(site: SiteConfig, split: str, entries: object) -> list[Case]:
    if not isinstance(entries, list):
        raise _error(site, split, type(entries).__name__, "a list of cases", "Write the cases in brackets.")
    return [_read_entry(site, split, index, entry) for index, entry in enumerate(entries)]


def _read_entry(site: SiteConfig, split: str, index: int, entry: object) -> Case:
    field = f"{split}[{index}]"
    if isinstance(entry, str):
        entry = {"image": entry}
    if not isinstance(entry, dict):
        raise _error(site, field, entry, "an object with image and label", "See the other entries.")
    for key in entry:
        if key not in ENTRY_KEYS:
            raise _error(site, f"{field}.{key}", "an unknown key", f"one of {', '.join(ENTRY_KEYS)}", "Remove it.")
    label = _file(site, f"{field}.label", entry["label"]) if "label" in entry else None
    if label is None and split in ANNOTATED_SPLITS:
        raise _error(site, f"{field}.label", "nothing", "a label file", "Only testing cases may lack a label.")
    return Case(
        index=index,
        split=split,
        image=_file(site, f"{field}.image", entry.get("image")),
        label=label,
        labels=_labels(site, f"{field}.labels", entry["labels"]) if "labels" in entry else None,
    )


def _file(site: SiteConfig, field: str, value: object) -> Path:
    if not isinstance(value, str) or not value:
        raise _error(site, field, value, "a path relative to data_root", "Write it as text in quotes.")
    return site.data_root / value


def _labels(site: SiteConfig, field: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(name, str) for name in value):
        raise _error(
            site,
            field,
            value,
            "a list of class names",
            "Name the classes this case annotates, or leave the key out where they are its site's.",
        )
    return tuple(value)


def _refuse_repeated_images(site: SiteConfig, cases: dict[str, list[Case]]) -> None:
    seen: dict[Path, Case] = {}
    for case in (case for split in SPLITS for case in cases[split]):
        first = seen.setdefault(case.image.resolve(), case)
        if first is not case:
            raise _error(
                site,
                f"{case.field}.image",
                str(case.image),
                "every image once",
                f"It is also {first.field}.image: a case in two splits would flatter the scores. Remove one.",
            )


def _error(site: SiteConfig, field: str, got: object, expected: str, remedy: str) -> ConfigError:
    return ConfigError(where=str(site.datalist), field=field, got=got, expected=expected, remedy=remedy)
