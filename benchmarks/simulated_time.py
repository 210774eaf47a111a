"""How long a run would take on machines of its own, from the CPU seconds and the bytes of one that was measured.

The model: every site and the server have a core like the measured one for themselves and work as they did, at one
second per CPU second. Every site has a line of its own with the same bandwidth up and down; the server's line carries
all of them at once. A site receives, works, sends; a leg of the run (a round, a phase) lasts as long as its slowest
site, and then the server's own work. Latency, encryption and FLARE's envelopes are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field

PARTS = ("start", "down", "train", "validate", "up", "server")


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one site does in a leg: CPU seconds to start, train and validate, bytes it receives and sends."""

    start: float = 0.0
    train: float = 0.0
    validate: float = 0.0
    down: int = 0
    up: int = 0

    def parts(self, mbit: float) -> dict[str, float]:
        """Seconds by part with ``mbit`` Mbit/s."""
        seconds = {name: getattr(self, name) * 8e-6 / mbit for name in ("down", "up")}
        return {name: getattr(self, name) for name in ("start", "train", "validate")} | seconds


@dataclass(frozen=True, kw_only=True)
class Leg:
    """One round or phase. server: CPU seconds of the server after the sites; start: of its start, before them."""

    name: str
    sites: Mapping[str, Share] = field(default_factory=dict)
    server: float = 0.0
    start: float = 0.0

    @property
    def bytes(self) -> int:
        """Up and down, of all sites."""
        return sum(share.down + share.up for share in self.sites.values())

    def to_dict(self) -> dict:
        return asdict(self)

    @classmethod
    def from_dict(cls, given: Mapping) -> Leg:
        return cls(**{**given, "sites": {name: Share(**share) for name, share in given["sites"].items()}})

    def parts(self, mbit: float) -> dict[str, float]:
        """Seconds of the slowest site and of the server, by part."""
        by_site = [share.parts(mbit) for share in self.sites.values()]
        slowest = max(by_site, key=lambda parts: sum(parts.values()), default={})
        found = dict.fromkeys(PARTS, 0.0) | slowest
        return found | {"server": self.server, "start": found["start"] + self.start}


def total(legs: Iterable[Leg], mbit: float) -> dict[str, float]:
    """Seconds by part of legs one after the other."""
    seconds = dict.fromkeys(PARTS, 0.0)
    for leg in legs:
        for name, value in leg.parts(mbit).items():
            seconds[name] += value
    return seconds
