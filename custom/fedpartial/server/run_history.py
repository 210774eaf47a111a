"""What the server remembers of a run, round by round, for progress lines, model selection and the report.

Plain Python. ``val_dice`` of a round is the score of the model that the round produced: sites measure it
at the start of the next round, and the final evaluation measures it for the last one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from fedpartial.training.reported import ANNOTATED

KEPT = ("best_dice", "best_round", "facts", "first_facts")
SITE_FIELDS = ("loss", "val_dice", "seconds", "bytes_up", "bytes_down")


def macro_dice(by_site: Mapping[str, Mapping[str, float]]) -> float | None:
    """Mean over classes of the mean over sites that scored the class; None when nothing was scored.

    With the ConDistFL sites this is the paper's selection rule (METHODS 1.4: macro mean of the classes).
    """
    classes = sorted({name for scores in by_site.values() for name in scores})
    means = []
    for name in classes:
        values = [by_site[site][name] for site in sorted(by_site) if name in by_site[site]]
        means.append(sum(values) / len(values))
    return sum(means) / len(means) if means else None


@dataclass(kw_only=True)
class Round:
    """One round: what each site sent and how the model it produced scored."""

    number: int
    started: float
    seconds: float = 0.0
    sites: dict[str, dict] = field(default_factory=dict)
    val_dice: float | None = None
    site_dice: dict[str, float | None] = field(default_factory=dict)


class RunHistory:
    """Collects rounds and remembers the best model so far.

    Of what comes between rounds and final evaluation: phases in seconds, bytes by name, and notes for the report.
    """

    def __init__(self, num_rounds: int):
        self.num_rounds = num_rounds
        self.rounds: list[Round] = []
        self.best_dice: float | None = None
        self.best_round: int | None = None
        self.facts: dict[str, dict] = {}
        self.first_facts: dict[str, dict] = {}
        self.exchange: list[dict] = []  # finished rounds of an ExchangeLog
        self.phases: dict[str, float] = {}
        self.bytes_after: dict[str, int] = {}
        self.notes: list[str] = []
        self._started = time.monotonic()
        self._updates_before = 0

    def to_dict(self) -> dict:
        """Plain values; ``from_dict`` continues from them in another process."""
        rounds = [{name: value for name, value in asdict(r).items() if name != "started"} for r in self.rounds]
        return {"rounds": rounds, "exchange": self.exchange, **{name: getattr(self, name) for name in KEPT}}

    @classmethod
    def from_dict(cls, num_rounds: int, given: Mapping) -> RunHistory:
        """The history of the run that this one continues."""
        history = cls(num_rounds)
        history.rounds = [Round(started=0.0, **values) for values in given["rounds"]]
        for name in KEPT:
            setattr(history, name, given[name])
        history.exchange = list(given.get("exchange", ()))  # states of earlier versions have none
        history._updates_before = history._updates()
        return history

    def _updates(self) -> int:
        return sum(len(r.sites) for r in self.rounds)

    def start_round(self, number: int) -> None:
        self.rounds.append(Round(number=number, started=time.monotonic()))

    def add_update(self, site: str, metrics: Mapping, bytes_up: int) -> None:
        """One site's metrics of the current round; its val_dice is the score of the previous round's model."""
        self.rounds[-1].sites[site] = {**metrics, "bytes_up": bytes_up}
        self.facts[site] = {k: metrics[k] for k in ("device", "precision", "source", "setup_seconds", "num_training")}
        self.first_facts.setdefault(site, self.facts[site])

    def annotated(self, site: str | None = None) -> set[str] | None:
        """Classes that a training case annotates, of one site or of all that have trained; None where a round of an
        earlier version does not say."""
        told = [sent.get(ANNOTATED) for r in self.rounds for name, sent in r.sites.items() if site in (None, name)]
        return None if None in told else {name for names in told for name in names}

    def score_incoming(self) -> float | None:
        """Score of the model that the current round started from, once its sites have answered."""
        scores = {site: m["val_dice"] for site, m in self.rounds[-1].sites.items() if m["val_dice"]}
        if len(self.rounds) < 2 or not scores:
            return None
        return self.set_score(self.rounds[-2], scores)

    def set_score(self, scored: Round, by_site: Mapping[str, Mapping[str, float]]) -> float | None:
        scored.val_dice = macro_dice(by_site)
        scored.site_dice = {site: sum(s.values()) / len(s) if s else None for site, s in by_site.items()}
        return scored.val_dice

    def is_best(self, dice: float | None, round_number: int) -> bool:
        """Remember and report whether this score is the best so far; the later model wins a tie."""
        if dice is None or (self.best_dice is not None and dice < self.best_dice):
            return False
        self.best_dice, self.best_round = dice, round_number
        return True

    def add_download(self, site: str, count: int) -> None:
        """Bytes that a site of the current round has got after its update."""
        if self.rounds and site in self.rounds[-1].sites:
            self.rounds[-1].sites[site]["bytes_down"] += count

    def add_bytes(self, name: str, count: int) -> None:
        """Bytes that moved after the rounds."""
        self.bytes_after[name] = self.bytes_after.get(name, 0) + count

    def finish_round(self) -> float:
        current = self.rounds[-1]
        current.seconds = time.monotonic() - current.started
        return current.seconds

    def remaining_seconds(self, sites_per_round: int, skipped: int = 0) -> float | None:
        """Time left at the pace so far, counted in site updates; ``skipped`` are those of rounds not for all sites."""
        done = self._updates()
        now = done - self._updates_before
        total = self.num_rounds * max(sites_per_round, 1) - skipped
        if not now:
            return None
        return (time.monotonic() - self._started) * max(total - done, 0) / now

    def report_rounds(self) -> list[dict]:
        """The 'rounds' of report.json (rounds count from 1)."""
        return [self._report_round(r) for r in self.rounds]

    def _report_round(self, r: Round) -> dict:
        sites = {}
        for site, metrics in sorted(r.sites.items()):
            values = {**metrics, "val_dice": r.site_dice.get(site)}
            sites[site] = {name: values[name] for name in SITE_FIELDS}
        return {
            "round": r.number + 1,
            "seconds": r.seconds,
            "bytes_up": sum(s["bytes_up"] for s in sites.values()),
            "bytes_down": sum(s["bytes_down"] for s in sites.values()),
            "val_dice": r.val_dice,
            "sites": sites,
        }
