"""The record of one run and its JSON form, report.json, whose contract is report.schema."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from importlib import resources

from fedpartial.evaluation.metrics import CaseScores, EmptyClass

SCHEMA_FILE = "report.schema"
EXTERNAL = "external"
"""Name of the external set where cases are listed by site."""
EXTERNAL_ORGANS = "external_organs"
"""The external set with lesions counted as their organ."""
EXTERNAL_HEADS = "external_heads"
"""The external set with each class scored from the binary mask of its own head."""
EXTERNAL_NAMES = (EXTERNAL, EXTERNAL_ORGANS, EXTERNAL_HEADS)
"""Names of the external set where cases are listed by site; no site may be called so."""
_NOT_PLAIN = ("cases", "adapted_cases", "unadapted_cases", "overlays")


@dataclass(frozen=True, kw_only=True)
class Overlay:
    """A picture of one case: PNG bytes, the site (or 'external') it is from, its mean Dice."""

    title: str
    site: str
    dice: float | None
    png: bytes


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """Everything a report says about one run. Plain values; report.schema has the exact shapes.

    job: name of the job folder. commit: of the source, None when unknown. preset: name of the preset.
    versions: package name -> version.
    empty_class_policy: the Dice of a class predicted but not in the reference ("exclude" or "zero").
    device, precision: site -> what it trained on ("cpu", "cuda"), and in ("float32", "amp").
    sites: site -> ``summarise(...)`` of its test cases. external: ``summarise(...)`` of the external set,
    {} without one. external_organs: the same with lesions counted as their organ. external_heads: the same with each
    class scored from its own head's binary mask, {} where the model has no heads.
    rounds: one dict per round: round, seconds, bytes_up, bytes_down, val_dice, and sites: site ->
    {loss, val_dice, seconds, bytes_up, bytes_down}. bytes_up is from the site to the server.
    exchange: facts on what was exchanged in the whole run, by name.
    phases: consecutive phases -> wall-clock seconds; their sum is the duration of the run.
    cross_site: model name -> site -> class -> mean Dice (None where undefined).
    selected_model: {name, round, val_dice}, None when the method selects none.
    cases: site or one of ``EXTERNAL_NAMES`` -> scores per case; the report numbers them and never names files.
    adapted_sites, adapted_cases: way of site adaptation -> site -> what ``sites`` and ``cases`` hold, of the model that
    the site has adapted to its own data in this way; {} in a run without.
    unadapted_sites, unadapted_cases: the same of the model that was adapted, the last one, whichever is selected.
    pretrain_rounds: the first rounds, in which only some sites take part on purpose.
    notes: sentences for the reader. overlays: pictures for report.html only.
    """

    job: str
    commit: str | None
    seed: int
    preset: str
    versions: Mapping[str, str]
    empty_class_policy: EmptyClass
    device: Mapping[str, str]
    precision: Mapping[str, str]
    sites: Mapping[str, Mapping[str, Mapping]]
    external: Mapping[str, Mapping]
    external_organs: Mapping[str, Mapping] = field(default_factory=dict)
    external_heads: Mapping[str, Mapping] = field(default_factory=dict)
    rounds: Sequence[Mapping]
    exchange: Mapping[str, object] = field(default_factory=dict)
    phases: Mapping[str, float] = field(default_factory=dict)
    cross_site: Mapping[str, Mapping[str, Mapping[str, float | None]]] = field(default_factory=dict)
    selected_model: Mapping[str, object] | None = None
    cases: Mapping[str, Sequence[CaseScores]] = field(default_factory=dict)
    adapted_sites: Mapping[str, Mapping[str, Mapping[str, Mapping]]] = field(default_factory=dict)
    adapted_cases: Mapping[str, Mapping[str, Sequence[CaseScores]]] = field(default_factory=dict)
    unadapted_sites: Mapping[str, Mapping[str, Mapping]] = field(default_factory=dict)
    unadapted_cases: Mapping[str, Sequence[CaseScores]] = field(default_factory=dict)
    pretrain_rounds: int = 0
    notes: Sequence[str] = ()
    overlays: Sequence[Overlay] = ()

    def to_report(self) -> dict:
        """The validated content of report.json: plain dicts and lists, without the pictures."""
        report = {f.name: _plain(getattr(self, f.name)) for f in fields(self) if f.name not in _NOT_PLAIN}
        report["cases"] = _numbered(self.cases)
        report["unadapted_cases"] = _numbered(self.unadapted_cases)
        report["adapted_cases"] = {way: _numbered(by_site) for way, by_site in self.adapted_cases.items()}
        validate_report(report)
        return report


@cache
def load_schema() -> dict:
    """The JSON schema (draft 2020-12) of report.json."""
    text = resources.files("fedpartial.evaluation").joinpath(SCHEMA_FILE).read_text(encoding="utf-8")
    return json.loads(text)


def validate_report(report: Mapping) -> None:
    """Raise ValueError naming every place where ``report`` leaves the schema or holds NaN or infinity."""
    from jsonschema import Draft202012Validator

    found = Draft202012Validator(load_schema()).iter_errors(report)
    faults = [f"{_pointer(error.absolute_path)}: {error.message}" for error in found]
    faults += [f"{_pointer(path)}: not a finite number" for path in _non_finite(report)]
    for name in EXTERNAL_NAMES:
        if name in report.get("sites", ()):
            faults.append(f"/sites/{name}: this name is kept for the external set; rename the site")
    if faults:
        raise ValueError("report.json breaks its contract:\n" + "\n".join(f"  - {fault}" for fault in faults))


def case_scores(case: Mapping) -> CaseScores:
    """The scores of a numbered case of report.json."""
    return CaseScores.from_dict({key: value for key, value in case.items() if key != "case"})


def _numbered(cases: Mapping[str, Sequence[CaseScores]]) -> dict[str, list[dict]]:
    return {site: [{"case": i, **scores.to_dict()} for i, scores in enumerate(c, 1)] for site, c in cases.items()}


def _plain(value: object) -> object:
    """Copy mappings and sequences to dicts and lists; the schema judges the rest."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _non_finite(value: object, path: tuple = ()) -> Iterator[tuple]:
    if isinstance(value, float) and not math.isfinite(value):
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from _non_finite(item, (*path, key))


def _pointer(path: Sequence) -> str:
    return "/" + "/".join(str(part) for part in path)
