"""What each method cost: time, traffic, steps, and where and with what it ran; and its way to the result."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from fedpartial.evaluation.compared_run import ComparedRun

TRAFFIC = ("bytes_up", "bytes_down")
PREPARATION, TRAINING = "data preparation (slowest site)", "training rounds"
"""Phases of a report."""


def costs(group: Sequence[ComparedRun]) -> dict:
    """Costs of one method's runs, plain values; times and bytes are means over its runs.

    seconds: wall clock of a whole run. training_seconds: of its rounds. Both without data preparation, which only
    the first run with an empty cache pays. bytes_total: sent and received by all sites in all rounds, without private
    heads, which are fetched after them. bytes_per_round: the same of one round. rounds, local_steps, finetune_steps,
    steps (of a whole run), commits, presets, devices, precisions, policies: every value that occurs, sorted. seeds:
    all. None in commits: unknown.
    """
    rounds = [len(run.report["rounds"]) for run in group]
    traffic = [sum(r[way] for r in run.report["rounds"] for way in TRAFFIC) for run in group]
    per_round = [total / number for total, number in zip(traffic, rounds, strict=True) if number]
    return {
        "seconds": _mean(_seconds(run.report) for run in group),
        "training_seconds": _mean(_training_seconds(run.report) for run in group),
        "bytes_total": _mean(traffic),
        "bytes_per_round": _mean(per_round),
        "rounds": sorted(set(rounds)),
        "local_steps": sorted({run.local_steps for run in group}),
        "finetune_steps": sorted({run.finetune_steps for run in group}),
        "steps": sorted({run.steps for run in group}),
        "seeds": [run.seed for run in group],
        "commits": sorted({run.report["commit"] for run in group}, key=str),
        "presets": sorted({run.report["preset"] for run in group}),
        "devices": sorted({device for run in group for device in run.report["device"].values()}),
        "precisions": sorted({precision for run in group for precision in run.report["precision"].values()}),
        "policies": sorted({run.report["empty_class_policy"] for run in group}),
    }


def curve(group: Sequence[ComparedRun]) -> list[dict]:
    """Validation Dice by local steps done: ``[{"steps", "mean", "low", "high", "seeds"}, ...]`` over the seeds."""
    found: dict[int, list[float]] = {}
    for run in group:
        for number, entry in enumerate(run.report["rounds"], start=1):
            if entry["val_dice"] is not None:
                found.setdefault(number * run.local_steps, []).append(entry["val_dice"])
    return [
        {"steps": steps, "mean": float(np.mean(dice)), "low": min(dice), "high": max(dice), "seeds": len(dice)}
        for steps, dice in sorted(found.items())
    ]


def _seconds(report: Mapping) -> float:
    given = sum(seconds for phase, seconds in report["phases"].items() if phase != PREPARATION)
    return given or _training_seconds(report)


def _training_seconds(report: Mapping) -> float:
    """The first round contains the preparation of the data, so without this phase the rounds are the best guess."""
    if TRAINING in report["phases"]:
        return report["phases"][TRAINING]
    return sum(r["seconds"] for r in report["rounds"])


def _mean(values: Iterable[float]) -> float | None:
    given = list(values)
    return float(np.mean(given)) if given else None
