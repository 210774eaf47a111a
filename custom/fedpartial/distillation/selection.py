"""Which stored model teaches a class on a volume (METHODS 4.3), and a record of it for the report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fedpartial.distillation.entropy import MapEntropy, SelectionRule


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The teacher of one class on one volume.

    entropy: the chosen map's. candidates: every teacher's, None for a map with too little foreground to be one. absent:
    no map has enough, so the class counts as absent here; the entropies are then those of the whole image.
    """

    volume: str
    klass: str
    teacher: str
    entropy: float
    absent: bool
    candidates: dict[str, float | None]


def choose(volume: str, klass: str, maps: Mapping[str, MapEntropy], rule: SelectionRule) -> Choice:
    """The teacher whose map of ``klass`` has the lowest entropy; of equal ones the first by name.

    With domain "predicted_fg" an empty map cannot win by being empty: one with fewer than min_fg_voxels of foreground
    is no candidate, nor is one with less than min_share of the largest foreground. Where all have fewer than
    min_fg_voxels the class is absent, and the map that is surest of it over the whole image is the pseudo-label. A
    class of one teacher has no choice.
    """
    least = max(rule.min_fg_voxels, rule.min_share * max(found.fg_voxels for found in maps.values()))
    entropies = {name: _entropy(maps[name], rule, least) for name in sorted(maps)}
    absent = all(value is None for value in entropies.values())
    if absent:
        entropies = {name: maps[name].over(rule.form, "all") for name in entropies}
    teacher = min((name for name, value in entropies.items() if value is not None), key=entropies.__getitem__)
    return Choice(
        volume=volume, klass=klass, teacher=teacher, entropy=entropies[teacher], absent=absent, candidates=entropies
    )


def _entropy(found: MapEntropy, rule: SelectionRule, least: float) -> float | None:
    """Of a map that is a candidate, with at least so many voxels of foreground, else None."""
    if rule.domain == "predicted_fg" and found.fg_voxels < least:
        return None
    return found.over(rule.form, rule.domain)


def taught(choices: Iterable[Choice]) -> dict[str, dict[str, int]]:
    """On how many volumes each teacher taught each class: {class: {teacher: volumes}}; teachers that never did too.

    Volumes where the class is absent do not count.
    """
    counts: dict[str, dict[str, int]] = {}
    for choice in choices:
        of_class = counts.setdefault(choice.klass, {})
        for name in choice.candidates:
            of_class[name] = of_class.get(name, 0) + (name == choice.teacher and not choice.absent)
    return counts
