"""Progress of a run for people: one line per round and site, and on a terminal what happens right now."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from fedpartial.evaluation.formats import rough_duration, size

if TYPE_CHECKING:
    from rich.console import Console

DOING = re.compile(
    r"(?P<site>[\w.-]+): (?P<what>(?:phantom|prepared) case \d+ of \d+|(?:round \d+/\d+|local) step .*)$"
)
"""Lines of FLARE's log in which a site says how far it is (SiteSession and SiteLearner write them)."""

SECONDS_BETWEEN_LINES = 30.0
PHASES = {"external set": "report, with the external set where there is one"}
"""Names of phases that say more than is known here."""


class ProgressView:
    """Prints progress events; a terminal also shows the latest word of a site in a status line."""

    def __init__(self, console: Console, sites: Sequence[str], *, verbose: bool = False):
        self.console, self.sites, self.verbose = console, tuple(sites), verbose
        self._plan: dict = {}
        self._spoke: dict[str, float] = {}
        self._status = console.status("starting FLARE") if console.is_terminal and not verbose else None

    def __enter__(self) -> ProgressView:
        if self._status:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status:
            self._status.stop()

    def event(self, event: dict) -> None:
        """Show one line of progress.jsonl; unknown events are left out."""
        if event["event"] == "plan":
            self._plan = event
        if line := line_of(event, self._plan, self.sites):
            self.say(line)
        if now := _now_of(event, self._plan):
            self._now(now)

    def log_line(self, line: str) -> None:
        """Show FLARE's log itself, or only how far the sites are."""
        if self.verbose:
            self.say(line)
        elif match := DOING.search(line):
            self._doing(match["site"], match["what"])

    def say(self, line: str) -> None:
        from rich.text import Text

        self.console.print(Text(line), soft_wrap=True)

    def _now(self, text: str) -> None:
        if self._status:
            from rich.text import Text

            self._status.update(Text(text))

    def _doing(self, site: str, what: str) -> None:
        """In the status line; without a terminal as a line of its own now and then."""
        self._now(f"{site}: {what}")
        now = time.monotonic()
        if self._status is None and now - self._spoke.setdefault(site, now) > SECONDS_BETWEEN_LINES:
            self._spoke[site] = now
            self.say(f"  {site}: {what}")


def _now_of(event: dict, plan: dict) -> str | None:
    """What goes on after this event, for the status line."""
    if event["event"] == "plan":
        return "preparing data"
    if event["event"] == "phase":
        return PHASES.get(event["name"], str(event["name"]))
    if event["event"] == "distilling":
        return f"distillation: {event['what']} {event['done']} of {event['total']}"
    return f"round {event['round']} of {plan['num_rounds']}" if "round" in event else None


def line_of(event: dict, plan: dict, sites: Sequence[str]) -> str | None:
    """The line for one event, or None for one without."""
    writer = _WRITERS.get(event["event"])
    return writer(event, plan, sites) if writer else None


def _plan(event: dict, plan: dict, sites: Sequence[str]) -> str:
    continued = f" (continued after round {done})" if (done := event.get("finished_rounds")) else ""
    return f"FLARE runs{continued}; preparing data at {', '.join(sites)}"


def _update(event: dict, plan: dict, sites: Sequence[str]) -> str:
    """ "Dice before" is that of the model which the round started from; a first round has none."""
    width = max(map(len, (*sites, event["site"])))
    dice = "   -  " if event["val_dice"] is None else f"{event['val_dice']:6.3f}"
    left = event["remaining_seconds"]
    remaining = "" if left is None else f"  about {rough_duration(left)} of training left"
    return (
        f"round {_of_all(event, plan)}  {event['site']:<{width}}  loss {event['loss']:6.3f}  Dice before {dice}  "
        f"{rough_duration(event['seconds']):>6}{remaining}"
    )


def _round(event: dict, plan: dict, sites: Sequence[str]) -> str:
    dice = event["previous_val_dice"]
    scored = "" if dice is None else f"; mean Dice of the model before it {dice:.3f}"
    return f"round {_of_all(event, plan)}  done in {rough_duration(event['seconds'])}{scored}"


def _phase(event: dict, plan: dict, sites: Sequence[str]) -> str:
    return PHASES.get(event["name"], str(event["name"]))


def _tuned(event: dict, plan: dict, sites: Sequence[str]) -> str:
    return f"  {event['site']} has tuned its heads, loss {event['loss']:.3f}"


def _heads(event: dict, plan: dict, sites: Sequence[str]) -> str:
    return f"  {event['site']} has given its heads, {size(event['bytes_up'])}"


def _adapted(event: dict, plan: dict, sites: Sequence[str]) -> str:
    return f"  {event['site']} has adapted the model to its own data"


def _model(event: dict, plan: dict, sites: Sequence[str]) -> str:
    made = f"loss {event['loss']:.3f} after {event['steps']} steps" if event["steps"] else "trained before, unchanged"
    return f"  {event['site']} has uploaded version {event['version']} of its model, {size(event['bytes_up'])}, {made}"


def _scored(event: dict, plan: dict, sites: Sequence[str]) -> str:
    return f"  {event['site']} has scored the models"


def _failure(event: dict, plan: dict, sites: Sequence[str]) -> str:
    return f"  {event['site']} reports a failure"


def _optimizer(event: dict, plan: dict, sites: Sequence[str]) -> str:
    return f"  {event['site']} trains with {event['state']}"


def _gone(event: dict, plan: dict, sites: Sequence[str]) -> str:
    return f"  {event['site']} is gone; the others go on"


def _back(event: dict, plan: dict, sites: Sequence[str]) -> str:
    return f"  {event['site']} is back"


def _of_all(event: dict, plan: dict) -> str:
    return f"{event['round']:>{len(str(plan['num_rounds']))}}/{plan['num_rounds']}"


_WRITERS = {
    "plan": _plan,
    "update": _update,
    "round": _round,
    "phase": _phase,
    "tuned": _tuned,
    "heads": _heads,
    "adapted": _adapted,
    "model": _model,
    "scored": _scored,
    "failure": _failure,
    "optimizer": _optimizer,
    "gone": _gone,
    "back": _back,
}
