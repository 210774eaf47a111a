"""A weighted sum of arrays that come one at a time, exact and so independent of their order, in constant memory.

Every element's sum is a pair of float64 numbers (high, low): what an addition to ``high`` rounds off, TwoSum finds
without an error (Knuth, The Art of Computer Programming 2, 4.2.2), and goes to ``low``. What is added is exact as well:
weight and values are split into parts of so few bits that the product of two parts fits into float64 (Veltkamp, Dekker
1971).

When the pair is exact: let q be the lowest bit that any product of an element has, M the sum of the products' sizes and
n their number; the pair is exact while n M < 2^106 q. For float32 values with whole weights below 2^12 of up to 2^6
sites that is: while the sites' values of one element, zeros aside, differ by less than a factor of 2^58 (3e17). Beyond
it the pair is still right to a part in 2^100 of M, but the order could show, in values that cancel to a tie of float32.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

CHUNK = 16384
"""Elements at a time, so that the temporaries stay in a core's cache."""
SPLITTER = float(2**27 + 1)
NEAR = 8
"""In units of float64's last bit; sum and division are wrong by less than two of them."""
SMALLEST_NORMAL = 2.0**-126


class ExactSum:
    """The sum of weight times values for arrays of ``size`` elements: 16 bytes for each, however many are added."""

    def __init__(self, size: int):
        self._high, self._low = np.zeros(size), np.zeros(size)

    def add(self, values: np.ndarray, weight: float) -> None:
        """values: (size,) float16, float32 or float64, finite and below 2^970; they are not kept."""
        weights = [part for part in _split_number(weight) if part]
        product, total, error = np.empty((3, min(CHUNK, values.size)))
        for span in _spans(values.size):
            high, low = self._high[span], self._low[span]
            size = high.size
            for part in _exact_parts(values[span]):
                for factor in weights:
                    np.multiply(part, factor, out=product[:size], dtype=np.float64)
                    _add_exactly(high, low, product[:size], total[:size], error[:size])

    def mean(self, total: float, out: np.ndarray) -> None:
        """Write sum / total, rounded to the nearest float32, into ``out`` (size,); ties go to the even one."""
        for span in _spans(out.size):
            high, low = self._high[span], self._low[span]
            quotient = (high + low) / total
            doubtful = np.flatnonzero(_near_a_tie(quotient))
            quotient[doubtful] = _rounded_to_odd(high[doubtful], low[doubtful], total)
            out[span] = quotient


def _spans(size: int) -> Iterator[slice]:
    return (slice(start, min(start + CHUNK, size)) for start in range(0, size, CHUNK))


def _add_exactly(high: np.ndarray, low: np.ndarray, value: np.ndarray, total: np.ndarray, error: np.ndarray) -> None:
    """(high, low) += value, in place; the other three are scratch."""
    np.add(high, value, out=total)
    np.subtract(total, high, out=error)  # what of value is in total
    np.subtract(value, error, out=value)
    np.subtract(total, error, out=error)  # what of high is in total
    np.subtract(high, error, out=error)
    np.add(error, value, out=error)
    np.add(low, error, out=low)
    high[:] = total


def _exact_parts(values: np.ndarray) -> tuple[np.ndarray, ...]:
    """Parts of at most 27 bits."""
    return _split(values) if values.dtype == np.float64 else (values,)


def _split(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scaled = SPLITTER * values
    upper = scaled - (scaled - values)
    return upper, values - upper


def _split_number(value: float) -> tuple[float, float]:
    upper, lower = _split(np.float64(value))
    return float(upper), float(lower)


def _product(values: np.ndarray, factor: float) -> tuple[np.ndarray, np.ndarray]:
    """values * factor and what its rounding left out."""
    product = values * factor
    upper, lower = _split(values)
    first, second = _split_number(factor)
    return product, ((upper * first - product) + upper * second + lower * first) + lower * second


def _near_a_tie(values: np.ndarray) -> np.ndarray:
    """Whether a float64 is so near to the middle of two float32 numbers that its own rounding could decide between
    them: by the 29 bits that float32 does not have, or because the neighbours are float32's smallest numbers."""
    beside_middle = ((values.view(np.int64) - 2**28 + NEAR) & (2**29 - 1)) < 2 * NEAR
    return beside_middle | (np.abs(values) < SMALLEST_NORMAL)


def _rounded_to_odd(high: np.ndarray, low: np.ndarray, total: float) -> np.ndarray:
    """(high + low) / total in 53 bits of which the last says whether anything was left out: so a second rounding, to
    float32, is right where float64's nearest number would be a tie."""
    high, low = _normalised(high, low)
    quotient = high / total
    product, rest = _product(quotient, total)
    found, left = _normalised(quotient, ((high - product) - rest + low) / total)
    bits = found.view(np.int64)
    change = np.where((left > 0) == (found > 0), 1, -1)
    return np.where((left != 0) & (bits & 1 == 0), bits + change, bits).view(np.float64)


def _normalised(high: np.ndarray, low: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same sum with ``high`` as near to it as float64 can be: both then follow from the sum alone."""
    total = high + low
    of_low = total - high
    return total, (high - (total - of_low)) + (low - of_low)
