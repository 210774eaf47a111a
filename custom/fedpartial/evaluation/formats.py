"""Numbers and names as a reader sees them; undefined values are an en dash."""

from __future__ import annotations

UNDEFINED = "\N{EN DASH}"
WITHHELD = "withheld"
_PLUS_MINUS = " \N{PLUS-MINUS SIGN} "


def class_label(name: str) -> str:
    """'liver_tumor' -> 'liver tumor'."""
    return name.replace("_", " ")


def number(value: float | None, digits: int = 3) -> str:
    """A fixed number of digits after the point."""
    return UNDEFINED if value is None else f"{value:.{digits}f}"


def mean_sd(statistics: dict, digits: int = 3) -> str:
    """'0.912 ± 0.034'; without an sd only the mean."""
    mean = number(statistics["mean"], digits)
    return mean if statistics["sd"] is None else f"{mean}{_PLUS_MINUS}{number(statistics['sd'], digits)}"


def percent(share: float | None, digits: int = 1) -> str:
    """A share from 0 to 1 as a percentage."""
    return UNDEFINED if share is None else f"{100 * share:.{digits}f} %"


def size(num_bytes: float | None) -> str:
    """Bytes with a decimal unit: '12.3 MB'."""
    if num_bytes is None:
        return UNDEFINED
    for unit in ("bytes", "kB", "MB", "GB"):
        if abs(num_bytes) < 1000:
            break
        num_bytes, unit = num_bytes / 1000, "TB"
    return f"{num_bytes:.0f} {unit}" if unit == "bytes" else f"{num_bytes:.1f} {unit}"


def duration(seconds: float | None) -> str:
    """'8.2 s', '3 min 20 s', '2 h 5 min'."""
    if seconds is None:
        return UNDEFINED
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def rough_duration(seconds: float | None) -> str:
    """For what goes on or is only guessed: '40 s', '3 min', '2.5 h'."""
    if seconds is None:
        return "unknown time"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"


def short_commit(commit: str | None) -> str:
    """Twelve digits, and the "+" of a checkout with changes."""
    if commit is None:
        return "unknown"
    return commit.removesuffix("+")[:12] + ("+" if commit.endswith("+") else "")


def plural(count: int, noun: str) -> str:
    """'1 case', '3 cases'."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
