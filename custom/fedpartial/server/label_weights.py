"""Aggregation by label: what belongs to a class is averaged with more weight on the sites that annotate the class.

Fed-MENU (METHODS 5) gives the encoder of an organ the weights 1.0 and 0.5. Here the rule holds for every tensor, or row
of an output layer, that networks/classes.py gives to a class, so that any method can use it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from fedpartial.errors import ConfigError
from fedpartial.labels import LabelSpace
from fedpartial.networks.classes import has_class_rows, tensor_classes
from fedpartial.server.aggregation import RunningMean, Weigh


@dataclass(frozen=True, kw_only=True)
class LabelWeights:
    """Weight of a site for what belongs to a class: whether a training case of it annotates the class, or none."""

    annotated: float = 1.0
    other: float = 0.5

    def __post_init__(self) -> None:
        for field, value in vars(self).items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
                raise _wrong(f".{field}", value, "a number above 0")

    @classmethod
    def from_json(cls, given: object) -> LabelWeights:
        """Of {"annotated": 1.0, "other": 0.5}. Raises ConfigError for other names and for other values."""
        if not isinstance(given, Mapping) or set(given) != set(cls.__dataclass_fields__):
            raise _wrong("", given, 'both and only "annotated" and "other"')
        return cls(**given)

    def of_site(self, annotated: Collection[str], classes: Collection[str]) -> float:
        """A site's weight for what serves ``classes``; annotated: the classes of its training cases."""
        return self.annotated if any(name in annotated for name in classes) else self.other

    def weigh(self, weight: float, annotated: Collection[str], space: LabelSpace) -> Weigh:
        """A site's weight for each tensor: ``weight`` where it belongs to no class; the row of background keeps it too.

        annotated: the classes that the site's training cases annotate. The function raises ValueError for an output
        layer with other rows than the channels of ``space``.
        """
        rows = (weight, *(self.of_site(annotated, (name,)) for name in space.classes))

        def of_tensor(name: str, shape: tuple[int, ...]) -> tuple[float, ...]:
            if has_class_rows(name):
                if shape[0] != len(rows):
                    raise ValueError(
                        f"tensor {name!r}: got shape {shape}; expected a row for each of {len(rows)} channels"
                    )
                return rows
            classes = tensor_classes(name, space)
            return (self.of_site(annotated, classes) if classes else weight,)

        return of_tensor


def label_weighted_mean(
    updates: Mapping[str, Mapping[str, np.ndarray]],
    weights: Mapping[str, float],
    label_weights: LabelWeights,
    annotated: Mapping[str, Collection[str]],
    space: LabelSpace,
) -> dict[str, np.ndarray]:
    """weighted_mean, in which ``label_weights`` stand in for ``weights`` where a tensor or a row belongs to classes.

    annotated: site -> the classes that its training cases annotate. Sums run as in weighted_mean, so equal label
    weights give its uniform mean bit for bit.
    """
    mean = RunningMean()
    for site, update in updates.items():
        mean.add(site, update, label_weights.weigh(weights[site], annotated[site], space))
    return mean.take()


def _wrong(field: str, got: object, expected: str) -> ConfigError:
    return ConfigError(
        where="job",
        field=f"aggregator.label_weights{field}",
        got=got,
        expected=expected,
        remedy='Fed-MENU has {"annotated": 1.0, "other": 0.5}; leave it out for a mean without labels.',
    )
