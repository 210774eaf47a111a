"""What an update must be before it may touch the global model.

FLARE's aggregators average whatever keys arrive, broadcast mismatched shapes and let NaN through
(design notes, section 8), so every update is checked by name first.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


class UpdateRefused(ValueError):
    """An update is not fit for aggregation; the message names the site, the tensor and the reason."""


def check_update(
    site: str, update: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray], num_steps: object
) -> None:
    """Raise UpdateRefused unless ``update`` fits the global model ``reference`` and is finite.

    Names must be equal as sets, shapes equal one by one, values floating point and finite, and the
    number of local steps a positive integer.
    """
    if isinstance(num_steps, bool) or not isinstance(num_steps, (int, np.integer)) or num_steps <= 0:
        raise _refused(site, f"local steps: got {num_steps!r}; expected a positive integer")
    if missing := [name for name in reference if name not in update]:
        raise _refused(site, f"{len(missing)} tensor(s) missing, first {missing[0]!r}")
    if extra := [name for name in update if name not in reference]:
        raise _refused(site, f"{len(extra)} unknown tensor(s), first {extra[0]!r}")
    for name, expected in reference.items():
        _check_tensor(site, name, update[name], np.shape(expected))


def _check_tensor(site: str, name: str, value: object, shape: tuple[int, ...]) -> None:
    if not isinstance(value, np.ndarray) or value.dtype not in (np.float16, np.float32, np.float64):
        kind = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
        raise _refused(site, f"tensor {name!r}: got {kind}; expected floating-point numbers")
    if value.shape != shape:
        raise _refused(site, f"tensor {name!r}: got shape {value.shape}; expected {shape}")
    if not np.isfinite(value).all():
        raise _refused(site, f"tensor {name!r}: {int((~np.isfinite(value)).sum())} value(s) are NaN or infinite")


def _refused(site: str, reason: str) -> UpdateRefused:
    return UpdateRefused(f"update from {site} refused: {reason}")
