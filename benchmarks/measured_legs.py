"""From the moments of a watched run and its report.json to the legs of a simulated run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from simulated_time import Leg, Share
from watched_run import SERVER, Moment

LOCAL_TRAINING, FINE_TUNING = "local training", "fine-tuning"
"""How the phases begin in which sites train outside of a round."""


def measured_legs(
    moments: Sequence[Moment],
    report: Mapping,
    validation: Mapping[str, float],
    validated: Sequence[bool],
    *,
    exchanged: bool = True,
) -> list[Leg]:
    """The leg that each moment ends.

    validation: site -> CPU seconds of one validation. validated: for each round whether the sites validated what they
    got. exchanged: False where no message is needed (standalone, central); then nothing travels.
    """
    before = [{}, *(moment.cpu_seconds for moment in moments[:-1])]
    busy = [spent(first, last.cpu_seconds) for first, last in zip(before, moments, strict=True)]
    of_rounds = [i for i, moment in enumerate(moments) if moment.round is not None]
    rounds = [report["rounds"][moments[i].round - 1] for i in of_rounds]
    shares = round_shares(rounds, [busy[i] for i in of_rounds], validation, validated, exchanged=exchanged)
    server = split_start([busy[i].get(SERVER, 0.0) for i in of_rounds], [0.0] * len(of_rounds))
    legs = {
        i: Leg(name=moments[i].name, sites=sites, server=work, start=start)
        for i, sites, (start, work) in zip(of_rounds, shares, server, strict=True)
    }
    return [legs.get(i) or _phase_leg(i, moments, busy[i], report) for i in range(len(moments))]


def spent(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """CPU seconds between two moments, by site."""
    return {owner: seconds - before.get(owner, 0.0) for owner, seconds in after.items()}


def round_shares(
    rounds: Sequence[Mapping],
    busy: Sequence[Mapping[str, float]],
    validation: Mapping[str, float],
    validated: Sequence[bool],
    *,
    exchanged: bool,
) -> list[dict[str, Share]]:
    """For each round what each of its sites did; rounds are those of report.json."""
    shares: list[dict[str, Share]] = [{} for _ in rounds]
    for site in sorted({name for given in rounds for name in given["sites"]}):
        numbers = [i for i, given in enumerate(rounds) if site in given["sites"]]
        checks = [min(validation.get(site, 0.0), busy[i][site]) if validated[i] else 0.0 for i in numbers]
        split = split_start([busy[i][site] for i in numbers], checks)
        for i, (start, train), check in zip(numbers, split, checks, strict=True):
            given = rounds[i]["sites"][site]
            moved = {"down": given["bytes_down"], "up": given["bytes_up"]} if exchanged else {}
            shares[i][site] = Share(start=start, train=train, validate=check, **moved)
    return shares


def split_start(busy: Sequence[float], validate: Sequence[float]) -> list[tuple[float, float]]:
    """(start, train) of each of a site's rounds, from its CPU seconds and those of them that were validation.

    The first round has imports and first touches in it: what it took longer than the median of the others. A single
    round is all training.
    """
    train = [max(0.0, b - v) for b, v in zip(busy, validate, strict=True)]
    if len(train) < 2:
        return [(0.0, seconds) for seconds in train]
    first = min(train[0], median(train[1:]))
    return [(train[0] - first, first), *((0.0, seconds) for seconds in train[1:])]


def _phase_leg(i: int, moments: Sequence[Moment], busy: Mapping[str, float], report: Mapping) -> Leg:
    """What was done before a phase began: the phase before it, if there is one right before."""
    own, sites = busy.get(SERVER, 0.0), {name: used for name, used in busy.items() if name != SERVER}
    if i == 0:
        return Leg(name="start", start=own + max(sites.values(), default=0.0))
    phase = moments[i - 1].name if moments[i - 1].round is None else f"before {moments[i].name}"
    if phase.startswith(LOCAL_TRAINING):
        up = {name: given["bytes_up"] for name, given in report["rounds"][0]["sites"].items()}
        return Leg(name=phase, server=own, sites={name: Share(train=sites[name], up=up[name]) for name in up})
    if phase == FINE_TUNING:
        down = report["exchange"].get("fine_tuning_bytes_down", 0) // max(1, len(sites))
        return Leg(name=phase, server=own, sites={name: Share(train=used, down=down) for name, used in sites.items()})
    return Leg(name=phase, server=own)
