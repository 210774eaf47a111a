"""The Markdown tables of time_to_quality.py, and what they and the figure say of a point of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from published_table import markdown
from simulated_time import PARTS, Leg, total

NEVER = "-"


def legs_until(quality: Mapping, point: Mapping) -> list[Leg]:
    """What has to happen before the model of a point answers."""
    before = 1 if quality["before"] else 0
    legs = [Leg.from_dict(leg) for leg in quality["legs"][: before + point["legs"]]]
    return [*legs, Leg.from_dict(quality["collect"])]


def megabytes(quality: Mapping, point: Mapping) -> float:
    """Megabytes that have to travel before the model of a point answers, up and down, of all sites."""
    return sum(leg.bytes for leg in legs_until(quality, point)) / 1e6


def simulated(quality: Mapping, point: Mapping, mbit: float) -> dict[str, float]:
    """Simulated seconds by part until the model of a point answers."""
    return total(legs_until(quality, point), mbit)


def reached(quality: Mapping, target: float) -> Mapping | None:
    """The first point at the target."""
    return next((point for point in quality["points"] if (point["organ_dice"] or 0.0) >= target), None)


def best(quality: Mapping) -> Mapping:
    return max(quality["points"], key=lambda point: point["organ_dice"] or 0.0)


def _time_row(quality: Mapping, target: float, mbits: Sequence[float]) -> list[str]:
    point, top = reached(quality, target), best(quality)
    dice = f"{top['organ_dice']:.3f} ({top['name']})"
    if point is None:
        return [quality["job"], *[NEVER] * (3 + len(mbits)), dice, quality["commit"] or ""]
    cpu = sum(point["cpu_seconds"].values())
    times = [f"{sum(simulated(quality, point, mbit).values()):.0f}" for mbit in mbits]
    measured = [point["name"], f"{point['seconds']:.0f}", f"{cpu:.0f}"]
    return [quality["job"], *measured, *times, dice, quality["commit"] or ""]


def _part_row(quality: Mapping, target: float, mbit: float) -> list[str]:
    point = reached(quality, target) or best(quality)
    parts = simulated(quality, point, mbit)
    mark = "" if reached(quality, target) else " (best)"
    return [quality["job"], f"{point['name']}{mark}", *(f"{parts[name]:.1f}" for name in PARTS)]


def _bytes_row(quality: Mapping, target: float) -> list[str]:
    """What the job really sent, and what had to travel until the target."""
    report, point = quality["report"], reached(quality, target)
    up, down = (count / 1e6 for count in report["bytes"])
    message = report["message_bytes"]
    rounds = max(1, len(report["seconds"]))
    needed = NEVER if point is None else f"{megabytes(quality, point):.1f}"
    size = NEVER if message is None else f"{message / 1e6:.2f}"
    whole = f"{megabytes(quality, quality['points'][-1]):.1f}"
    return [quality["job"], size, f"{up / rounds:.2f}", f"{down / rounds:.2f}", f"{up + down:.1f}", whole, needed]


def print_tables(found: Sequence[Mapping], target: float, mbits: Sequence[float]) -> None:
    """Time to the target, its parts at the middle bandwidth, and bytes."""
    simulated_heads = [f"simulated s, {mbit:g} Mbit/s" for mbit in mbits]
    head = ["method", f"Dice {target:.2f} after", "wall s", "CPU s", *simulated_heads, "best (after)", "commit"]
    print(f"\n{markdown(head, [_time_row(q, target, mbits) for q in found])}")
    middle = sorted(mbits)[len(mbits) // 2]
    print(f"\nSimulated seconds by part, {middle:g} Mbit/s:\n")
    print(markdown(["method", "until", *PARTS], [_part_row(q, target, middle) for q in found]))
    head = ["method", "message MB", "up MB a round", "down MB a round", "rounds MB", "needed MB", f"to {target:.2f}"]
    print(f"\n{markdown(head, [_bytes_row(q, target) for q in found])}")
    for q in found:
        last, said = q["points"][-1]["organ_dice"], q["report"]["organ_dice"]
        if (q["report"]["selected"] or {}).get("name", "final") == "final" and abs(last - said) > 1e-6:
            print(f"\n{q['job']}: the last model scores {last:.6f} here and {said:.6f} in its report")
