"""What a continual federation costs by stage: MMDS beside averaging the same sites round by round (METHODS 4.7).

Numbers of MMDS come from the ledger of its store, those of FedAvg from the reports of its runs, one for each stage in
which all sites of that stage train together. Nothing is computed from sizes: both count what was sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise

from fedpartial.evaluation.formats import UNDEFINED, number, size

MMDS, FEDAVG = "MMDS", "FedAvg"
PAPER_ROUNDS, PAPER_SITES = 1000, (2, 3, 4, 5)
"""Rounds and sites of the paper's stages 1 to 4; MMDS hears 2, 1, 1 and 1 of them."""
HEAD = ("stage", "method", "messages up", "messages down", "sent up", "sent down", "epochs, sites", "epochs, server")


@dataclass(frozen=True, kw_only=True)
class StageLoad:
    """One stage of one method, or all up to it: messages and bytes to the server (up) and from it (down), and training
    in passes through the data. epochs: of all sites together, None where unknown."""

    stage: str
    method: str
    messages_up: int
    messages_down: int
    bytes_up: int
    bytes_down: int
    epochs: float | None
    server_epochs: float = 0.0


SUMMED = tuple(field.name for field in fields(StageLoad) if field.name not in ("stage", "method"))


def fedavg_load(stage: str, report: Mapping, local_steps: int, by_step: Mapping[str, float]) -> StageLoad:
    """One stage of FedAvg from report.json: a model down and one up for every site in every round that has bytes.

    ``by_step``: site -> what share of an epoch one of its steps is.
    """
    parts = [(site, values) for r in report["rounds"] for site, values in r["sites"].items()]
    known = all(site in by_step for site, _ in parts)
    return StageLoad(
        stage=stage,
        method=FEDAVG,
        messages_up=sum(values["bytes_up"] > 0 for _, values in parts),
        messages_down=sum(values["bytes_down"] > 0 for _, values in parts),
        bytes_up=sum(values["bytes_up"] for _, values in parts),
        bytes_down=sum(values["bytes_down"] for _, values in parts),
        epochs=sum(local_steps * by_step[site] for site, _ in parts) if known else None,
    )


def cumulated(loads: Sequence[StageLoad]) -> list[StageLoad]:
    """Each stage with all stages of its method before it; ``loads`` in their order."""
    totals: dict[str, StageLoad] = {}
    found = []
    for load in loads:
        before = totals.get(load.method)
        total = load if before is None else replace(load, **{n: _sum(before, load, n) for n in SUMMED})
        totals[load.method] = total
        found.append(total)
    return found


def _sum(a: StageLoad, b: StageLoad, name: str) -> float | None:
    values = getattr(a, name), getattr(b, name)
    return None if None in values else sum(values)


def by_method(loads: Iterable[StageLoad]) -> dict[str, list[StageLoad]]:
    found: dict[str, list[StageLoad]] = {}
    for load in loads:
        found.setdefault(load.method, []).append(load)
    return found


def rows(loads: Iterable[StageLoad]) -> Iterator[tuple[str, ...]]:
    """The cells under ``HEAD``."""
    for load in loads:
        messages = str(load.messages_up), str(load.messages_down)
        work = number(load.epochs, 1), number(load.server_epochs, 1) if load.server_epochs else UNDEFINED
        yield (load.stage, load.method, *messages, size(load.bytes_up), size(load.bytes_down), *work)


def readings(loads: Sequence[StageLoad], rounds: int) -> list[str]:
    """Both readings of the paper's "5,000 times", and what was measured with ``rounds`` rounds of FedAvg."""
    new = [PAPER_SITES[0], *(now - before for before, now in pairwise(PAPER_SITES))]
    return [
        _reading("Paper, last stage, uploads", PAPER_ROUNDS * PAPER_SITES[-1], new[-1], f"R = {PAPER_ROUNDS}"),
        _reading("Paper, all stages, uploads", PAPER_ROUNDS * sum(PAPER_SITES), sum(new), f"R = {PAPER_ROUNDS}"),
        *_measured("last stage", loads, rounds),
        *_measured("all stages", cumulated(loads), rounds),
    ]


def _measured(which: str, loads: Sequence[StageLoad], rounds: int) -> Iterator[str]:
    ours, theirs = (by_method(loads)[method][-1] for method in (MMDS, FEDAVG))
    given = f"R = {rounds}"
    yield _reading(f"Measured here, {which}, uploads", theirs.messages_up, ours.messages_up, given)
    scaled = theirs.messages_up * PAPER_ROUNDS // rounds
    yield _reading(f"The same with the paper's rounds, {which}", scaled, ours.messages_up, f"R = {PAPER_ROUNDS}")
    yield _reading(f"Measured here, {which}, bytes up", theirs.bytes_up, ours.bytes_up, given)
    both = (load.bytes_up + load.bytes_down for load in (theirs, ours))
    yield _reading(f"Measured here, {which}, bytes up and down", *both, given)


def _reading(what: str, fedavg: int, mmds: int, given: str) -> str:
    ratio = f"{fedavg / mmds:,.1f}".removesuffix(".0") if mmds else "no number of"
    return f"{what}: {fedavg:,} of FedAvg ({given}) against {mmds:,} of MMDS, {ratio} times"
