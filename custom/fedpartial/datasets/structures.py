"""What data sets outline, by name, and the class of a preset that a voxel of it belongs to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from fedpartial.errors import ConfigError
from fedpartial.labels import BACKGROUND, LabelSpace

ORGAN_OF = {
    "liver_tumor": "liver",
    "pancreas_tumor": "pancreas",
    "kidney_tumor": "kidney",
    "kidney_cyst": "kidney",
}
"""Lesion -> the organ that it is part of."""
PAIRED = ("kidney", "adrenal_gland")
STRUCTURES = (
    *("liver", "spleen", "pancreas", "kidney", "kidney_right", "kidney_left", *ORGAN_OF, "stomach", "gallbladder"),
    *("esophagus", "aorta", "vena_cava", "portal_vein", "adrenal_gland", "adrenal_gland_right", "adrenal_gland_left"),
    *("duodenum", "bladder", "prostate_uterus", "colon", "intestine", "rectum", "femur_left", "femur_right"),
)
"""Names that data sets' own names are brought to; a preset need not have them."""
SYNONYMS = {
    "gall_bladder": "gallbladder",
    "oesophagus": "esophagus",
    "postcava": "vena_cava",
    "inferior_vena_cava": "vena_cava",
    "ivc": "vena_cava",
    "portal_vein_and_splenic_vein": "portal_vein",
    "urinary_bladder": "bladder",
    "prostate": "prostate_uterus",
    "prostate_or_uterus": "prostate_uterus",
    "kidneys": "kidney",
    "renal_tumor": "kidney_tumor",
    "hepatic_tumor": "liver_tumor",
    "pancreatic_tumor": "pancreas_tumor",
}
_TUMOR = re.compile(r"(?:^|(?<=_))(?:tumou?rs?|cancer|lesions?|mass(?:es)?)$")


def structure_of(name: str, others: Iterable[str] = ()) -> str | None:
    """ "Right Kidney" -> "kidney_right"; None for a name that means nothing here. "tumor" alone is of the one organ
    with lesions among ``others``, the data set's other names."""
    plain = _plain(name)
    if plain in ("tumor", "cyst"):
        organs = {organ for organ in map(structure_of, others) if organ in ORGAN_OF.values()}
        plain = f"{organs.pop()}_{plain}" if len(organs) == 1 else plain
    plain = SYNONYMS.get(plain, plain)
    return plain if plain in STRUCTURES or plain == BACKGROUND else None


def _plain(name: str) -> str:
    plain = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    plain = _TUMOR.sub("tumor", plain)
    match = re.fullmatch(r"(?:(left|right)_(\w+)|(\w+)_(left|right|l|r))", plain)
    if match is None:
        return plain
    side, organ = match[1] or {"l": "left", "r": "right"}.get(match[4], match[4]), match[2] or match[3]
    return f"{organ}_{side}"


def class_of(structure: str, outlined: Iterable[str], space: LabelSpace) -> str:
    """The class of ``space`` for a structure of a data set that outlines ``outlined``, else "background".

    A side counts as its organ only where both are outlined, and a lesion as its organ only where the organ is: half an
    organ under the name of the whole would teach that the rest is background.
    """
    names, outlined = {name for organ in space.organs for name in organ.names}, set(outlined)
    lesions = {lesion for organ in space.organs for lesion in organ.lesions}
    if structure in names and (structure not in lesions or structure in space.classes):
        return structure
    for whole in PAIRED:
        sides = {f"{whole}_right", f"{whole}_left"}
        if structure in sides and sides <= outlined and whole in names:
            return whole
    organ = ORGAN_OF.get(structure)
    if organ in names and _is_outlined(organ, outlined):
        return structure if structure in names else organ
    return BACKGROUND


def _is_outlined(organ: str, outlined: set[str]) -> bool:
    return organ in outlined or {f"{organ}_right", f"{organ}_left"} <= outlined


def class_names(
    structures: Mapping[int, str], given: Mapping[int, str], space: LabelSpace, preset: str
) -> dict[int, str]:
    """Raw label value -> class for the site file; ``given`` are values whose class the user has said.

    Raises ConfigError for a given class that the preset ``preset``, whose label space it is, does not have, and where
    nothing is outlined that it has.
    """
    for raw, name in given.items():
        space.channels_of(name, where=f"--labels {raw}={name}, preset {preset}")
    outlined = {*structures.values(), *given.values()}
    named = {raw: class_of(structure, outlined, space) for raw, structure in structures.items() if raw} | dict(given)
    if all(name == BACKGROUND for name in named.values()):
        raise ConfigError(
            where="--preset",
            field=preset,
            got=f"data that outline {', '.join(sorted(outlined - {BACKGROUND})) or 'nothing'}",
            expected=f"at least one of its classes: {', '.join(space.classes)}",
            remedy="Choose another preset, or say what the values mean with --labels 1=liver,2=liver_tumor.",
        )
    space.table(named, where="--labels")
    return dict(sorted(named.items()))
