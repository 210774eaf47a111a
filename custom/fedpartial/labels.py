"""The label space: classes, organ groups, merging lesions, sides, and which classes a case annotates.

This module is the one owner of label arithmetic. Channel 0 is background; foreground channels follow
the order organ, its lesions, next organ, its lesions. A case annotates a set F of foreground classes;
the complement B = C \\ F always contains background (METHODS section 0).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from fedpartial.errors import ConfigError
from fedpartial.sides import split_sides

BACKGROUND = "background"
MAX_RAW_VALUE = 65_535


@dataclass(frozen=True, kw_only=True)
class Organ:
    """An organ and the lesions that grow in it; with ``sides`` it is a right and a left one, a class each."""

    name: str
    lesions: tuple[str, ...] = ()
    sides: bool = False

    @property
    def parts(self) -> tuple[str, ...]:
        """Its classes without lesions: itself, or ("kidney_right", "kidney_left")."""
        return (f"{self.name}_right", f"{self.name}_left") if self.sides else (self.name,)

    @property
    def names(self) -> tuple[str, ...]:
        """Everything that a site file may call it or what is in it."""
        return (*dict.fromkeys((self.name, *self.parts)), *self.lesions)


@dataclass(frozen=True, kw_only=True)
class LabelSpace:
    """All classes of a federation, grouped by organ.

    With ``merge_lesions`` a lesion counts as its organ (ConDistFL Union, METHODS 1.6): its name is
    still understood in site files, but it has no channel of its own.

    An organ with ``sides`` has two channels. Site files may name one of them, or the organ (or a lesion), which means
    both: the side of a voxel then follows from where it lies (fedpartial.sides). Its lesions must be merged.
    """

    organs: tuple[Organ, ...]
    merge_lesions: bool = False

    def __post_init__(self) -> None:
        if not self.organs:
            raise _space_error("organs", (), "at least one organ", "Name the organs to segment.")
        seen: set[str] = {BACKGROUND}
        for organ in self.organs:
            if organ.sides and not self.merge_lesions:
                remedy = "Set merge_lesions: which side a lesion belongs to is known as part of its organ only."
                raise _space_error("merge_lesions", False, f"True, because {organ.name} has sides", remedy)
            for name in organ.names:
                if name in seen:
                    raise _space_error(
                        "organs",
                        name,
                        "every class in exactly one organ group, and none called 'background'",
                        "Groups must not overlap: rename or remove the second one.",
                    )
                seen.add(name)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Foreground classes in channel order; class i has channel i + 1."""
        lesions = not self.merge_lesions
        return tuple(name for organ in self.organs for name in (*organ.parts, *(organ.lesions if lesions else ())))

    @cached_property
    def channels(self) -> tuple[str, ...]:
        return (BACKGROUND, *self.classes)

    @property
    def sided(self) -> bool:
        """Whether right and left of an organ are classes of their own."""
        return any(organ.sides for organ in self.organs)

    @property
    def num_channels(self) -> int:
        return len(self.channels)

    @cached_property
    def lesions(self) -> tuple[str, ...]:
        """Lesion classes that have a channel."""
        return tuple(n for o in self.organs for n in o.lesions if n in self.classes)

    @cached_property
    def organ_groups(self) -> tuple[tuple[int, ...], ...]:
        """Channels of each organ with its lesions, or of each side; together with (0,) a partition of all channels."""
        return tuple(
            tuple(self.channels.index(n) for n in (part, *o.lesions) if n in self.classes)
            for o in self.organs
            for part in o.parts
        )

    @cached_property
    def _resolved(self) -> dict[str, tuple[int, ...]]:
        known = {BACKGROUND: (0,)}
        for organ in self.organs:
            for name in organ.names:
                known[name] = tuple(self.channels.index(n) for n in ((name,) if name in self.classes else organ.parts))
        return known

    def index(self, name: str, *, where: str = "label space") -> int:
        """Channel of a class; a merged lesion has its organ's channel. An organ of two sides has none of its own."""
        found = self.channels_of(name, where=where)
        if len(found) > 1:
            raise ConfigError(
                where=where,
                field="labels",
                got=name,
                expected=f"one of its sides, {' or '.join(self.channels[channel] for channel in found)}",
                remedy="Name the side, or ask for the channels of both (channels_of).",
            )
        return found[0]

    def channels_of(self, name: str, *, where: str = "label space") -> tuple[int, ...]:
        """Channels of a name: one, or (right, left) of an organ with sides and of its lesions.

        Raises ConfigError for an unknown name.
        """
        if name not in self._resolved:
            raise ConfigError(
                where=where,
                field="labels",
                got=name,
                expected=f"one of {', '.join(self._resolved)}",
                remedy="Use a class name of the preset, or 'background' for a structure to leave out.",
            )
        return self._resolved[name]

    def labelled_mask(self, names: Iterable[str], *, where: str = "label space") -> np.ndarray:
        """Bool (C,): True for each class in ``names``. Background is never labelled.

        Raises ConfigError for unknown names and for a list that names no foreground class.
        """
        mask = np.zeros(self.num_channels, dtype=bool)
        names = list(names)
        for name in names:
            mask[list(self.channels_of(name, where=where))] = True
        mask[0] = False
        if not mask.any():
            raise ConfigError(
                where=where,
                field="labels",
                got=names,
                expected="at least one foreground class",
                remedy=f"Name what is annotated: {', '.join(self.classes)}.",
            )
        return mask

    def names(self, mask: Sequence[bool] | np.ndarray) -> tuple[str, ...]:
        """Class names of a labelled mask, in channel order."""
        return tuple(name for name, labelled in zip(self.channels, mask, strict=True) if labelled)

    def background_groups(self, labelled: Sequence[bool] | np.ndarray) -> tuple[tuple[int, ...], ...]:
        """Partition of the unlabelled channels (ConDistFL Eq 5): (0,), then one group per organ.

        An organ of which a part is labelled contributes its unlabelled rest; a fully labelled one nothing.
        """
        groups = [(0,)]
        for organ in self.organ_groups:
            rest = tuple(c for c in organ if not labelled[c])
            if rest:
                groups.append(rest)
        return tuple(groups)

    def group_matrix(self) -> np.ndarray:
        """Bool (1 + groups, C): row 0 is background, row m the channels of group m of ``organ_groups``."""
        matrix = np.zeros((1 + len(self.organ_groups), self.num_channels), dtype=bool)
        matrix[0, 0] = True
        for row, organ in enumerate(self.organ_groups, start=1):
            matrix[row, list(organ)] = True
        return matrix

    @cached_property
    def merged(self) -> LabelSpace:
        """The same organs without channels for lesions."""
        return replace(self, merge_lesions=True)

    def merge_channels(self, channels: np.ndarray) -> np.ndarray:
        """Channels of this space (any shape) -> channels of ``merged``: a lesion becomes its organ."""
        return np.array([self.merged.index(name) for name in self.channels], dtype=np.uint8)[channels]

    def merge_mask(self, labelled: Sequence[bool] | np.ndarray) -> np.ndarray:
        """Which classes of ``merged`` a case annotates: the organs it annotates. A lesion alone is no organ."""
        annotated = set(self.names(labelled))
        return np.array([name in annotated for name in self.merged.channels])

    def table(self, raw_labels: Mapping[int, str], *, where: str) -> LabelTable:
        """The translation from a site's raw label values to channels; validates every name and value."""
        values: dict[int, tuple[int, ...]] = {0: (0,)}
        for raw, name in raw_labels.items():
            if not 0 <= raw <= MAX_RAW_VALUE:
                raise ConfigError(
                    where=where,
                    field="labels",
                    got=raw,
                    expected=f"a label value from 0 to {MAX_RAW_VALUE}",
                    remedy="Label values are the integers stored in the label files.",
                )
            channels = self.channels_of(name, where=where)
            if raw == 0 and channels != (0,):
                raise ConfigError(
                    where=where,
                    field="labels.0",
                    got=name,
                    expected="background",
                    remedy="Value 0 means 'none of the annotated classes' in every label file.",
                )
            values[raw] = channels
        mask = self.labelled_mask(raw_labels.values(), where=where)
        return LabelTable(values=tuple(sorted(values.items())), labelled=self.names(mask), num_channels=len(mask))


@dataclass(frozen=True, kw_only=True)
class LabelTable:
    """Raw label values of one site -> channels of the label space: one each, or (right, left)."""

    values: tuple[tuple[int, tuple[int, ...]], ...]
    labelled: tuple[str, ...]
    num_channels: int

    @cached_property
    def channels(self) -> dict[int, tuple[int, ...]]:
        """Raw value -> its channels."""
        return dict(self.values)

    @cached_property
    def pairs(self) -> tuple[tuple[int, ...], ...]:
        """(right, left) channels of which one raw value means either; () where every value is one class."""
        return tuple(sorted({channels for _, channels in self.values if len(channels) > 1}))

    def unknown(self, raw: np.ndarray) -> list[int | float]:
        """Values present in ``raw`` that the table does not name (non-integers included)."""
        found = np.unique(raw)
        return [v.item() for v in found if v.item() not in self.channels]

    def apply(self, raw: np.ndarray, affine: np.ndarray | None = None) -> np.ndarray:
        """Translate raw label values (any shape, integers) to uint8 channels. Unknown values raise ConfigError.

        A table with ``pairs`` takes volumes (H W D) with their affine (4x4, voxel indices to mm); else ValueError.
        """
        if self.pairs and affine is None:
            raise ValueError("which side a voxel lies on needs the affine of the label file")
        if unknown := self.unknown(raw):
            raise ConfigError(
                where="label file",
                field="values",
                got=unknown,
                expected=f"values {list(self.channels)}",
                remedy="Name each value in the site file under 'labels'.",
            )
        codes = {pair: self.num_channels + number for number, pair in enumerate(self.pairs)}
        lookup = np.zeros(max(self.channels) + 1, dtype=np.uint8)
        for value, channels in self.values:
            lookup[value] = codes.get(channels, channels[0])
        result = lookup[raw.astype(np.int64)]
        for pair, code in codes.items():
            for channel, side in zip(pair, split_sides(result == code, affine), strict=True):
                result[side] = channel
        return result


def _space_error(field: str, got: object, expected: str, remedy: str) -> ConfigError:
    return ConfigError(where="label space", field=field, got=got, expected=expected, remedy=remedy)
