"""A layout: what the folder of one data set looks like, and what its label values mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

NIFTI = r"\.nii(?:\.gz)?$"
Structures = Mapping[int, str]
"""Raw label value -> the structure it outlines, by a name of fedpartial.datasets.structures."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Files of one published split. ``image`` and ``label`` are patterns with a group "id", searched in the path of a
    file from its data set's folder on, that folder's own name included: "Task03_Liver/imagesTr/liver_0.nii.gz"."""

    split: str
    image: str
    label: str | None = None


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One data set, as plain facts.

    looks_like: the folder in one line. page: where to get it. citation: authors, where it was published, year.
    cases: labelled CT cases of the complete data set, None where that depends. structures: None where the data set's
    dataset.json or the user says what the values mean. has_json: it needs a dataset.json. marks: pattern of a path that
    tells this layout from others like it. left_out: pattern of case ids that are no CT, and what they are.
    hint: what is often forgotten where there are labels without images. paper_key: its name in the papers' splits.
    site: the site of the jobs that holds it, None where there is none.
    """

    name: str
    title: str
    looks_like: str
    parts: tuple[Part, ...]
    page: str = ""
    licence: str = ""
    citation: str = ""
    cases: int | None = None
    structures: Structures | None = None
    has_json: bool = False
    marks: str | None = None
    left_out: tuple[str, str] | None = None
    hint: str = "Complete the download."
    paper_key: str | None = None
    site: str | None = None

    @property
    def is_published(self) -> bool:
        """One data set with a name, in contrast to a way of storing any."""
        return self.structures is not None

    @property
    def outlines(self) -> tuple[str, ...]:
        """The structures that it outlines, () where that depends."""
        return tuple(dict.fromkeys((self.structures or {}).values()))


@dataclass(frozen=True, kw_only=True)
class FoundCase:
    """One image, with its label file or None; both relative to the data set's folder. split: the published one."""

    id: str
    image: str
    label: str | None
    split: str


@dataclass(frozen=True, kw_only=True)
class Found:
    """What lies in a folder: cases with labels, cases without, and what was left out, by reason."""

    layout: Layout
    labelled: tuple[FoundCase, ...]
    unlabelled: tuple[FoundCase, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)
