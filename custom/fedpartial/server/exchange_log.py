"""What moved between server and sites in every round, and the sentence that ends a run in which it moved wrongly.

The published SegViz notebooks never exchanged anything and nobody noticed: one assigned the averages to a loop
variable, the others averaged an empty list (METHODS 2.2, S1 and S2). So three things are looked at in every round: that
nothing private moves, that every site starts from what it was sent, and that the aggregate changes the global model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b

import numpy as np

from fedpartial.networks.canonical import is_statistic
from fedpartial.networks.wire import Wire, tensor_bytes


def private_part(sender: str, names: Iterable[str], is_shared: Callable[[str], bool]) -> str | None:
    """The sentence for a message in which a private tensor moves, or None."""
    private = [name for name in names if not is_shared(name)]
    if not private:
        return None
    return f"a private part moved: {sender} sends {len(private)} private tensor(s), first {private[0]!r}"


class ExchangeLog:
    """Notes every message of a round and judges it; a fault is one sentence and means that the run must end.

    Args:
        is_shared: whether a tensor of this name may travel.
        aggregates: False for sites that start from their own weights (standalone): then it is no fault that they do not
            take over the global model or that it does not change.
        rounds: finished rounds, plain values for JSON; a finished round is appended to this very list.
        wire: what the server's tensors become when they leave; sizes are those of what travels.
    """

    def __init__(
        self,
        *,
        is_shared: Callable[[str], bool],
        aggregates: bool = True,
        rounds: list[dict] | None = None,
        wire: Wire = "float32",
    ):
        self.is_shared, self.aggregates, self.wire = is_shared, aggregates, wire
        self.rounds = [] if rounds is None else rounds
        self.shared: dict[str, dict] = {}
        self.faults: list[str] = []
        self._before: dict[str, bytes] = {}
        self._current: dict = {}

    def start_round(self, number: int, model: Mapping[str, np.ndarray]) -> str | None:
        """The global model that round ``number`` (from 0) sends to every site; returns the fault, if any."""
        self.shared = _tensors(model, self.wire)
        self._before = _fingerprints(model)
        self._current = {
            "round": number + 1,
            "tensors_down": len(model),
            "bytes_down": _num_bytes(self.shared),
            "sites": {},
            "tensors_changed": None,
            "unchanged": None,
        }
        empty = None if model else "nothing is exchanged: the global model holds no tensor"
        return self._judge(empty, private_part("the server", model, self.is_shared))

    def add_update(
        self, site: str, update: Mapping[str, np.ndarray], metrics: Mapping[str, int], bytes_up: int
    ) -> str | None:
        """An accepted update, its bytes on the way, and what its site reports: tensors_taken, bytes_down."""
        self._current["sites"][site] = {
            "tensors_up": len(update),
            "bytes_up": bytes_up,
            "tensors_not_zero": sum(bool(np.any(value)) for value in update.values()),
            "tensors_taken": metrics["tensors_taken"],
            "bytes_received": metrics["bytes_down"],
        }
        return self._judge(
            private_part(f"site {site}", update, self.is_shared)
            or self._incomplete(site, update)
            or self._not_taken(site, metrics["tensors_taken"])
        )

    def finish_round(self, model: Mapping[str, np.ndarray]) -> str | None:
        """The global model after aggregation. A round with a fault is not appended to the finished ones."""
        if self.aggregates:
            after = _fingerprints(model)
            unchanged = [name for name, value in self._before.items() if after.get(name) == value]
            self._current |= {"tensors_changed": len(self._before) - len(unchanged), "unchanged": unchanged}
            if fault := self._judge(self._nothing_changed(), private_part("the server", model, self.is_shared)):
                return fault
        if not self.faults:
            self.rounds.append(self._current)
        return None

    def to_dict(self) -> dict:
        """Everything noted so far, for JSON; the round under way comes last."""
        under_way = [self._current] if self._current and self._current not in self.rounds[-1:] else []
        return {"shared": self.shared, "rounds": [*self.rounds, *under_way], "faults": self.faults}

    def _incomplete(self, site: str, update: Mapping) -> str | None:
        missing = [name for name in self.shared if name not in update]
        if not missing:
            return None
        return f"site {site} sends {len(update)} of the {len(self.shared)} shared tensors, without {missing[0]!r}"

    def _not_taken(self, site: str, taken: int) -> str | None:
        if not self.aggregates or taken == len(self.shared):
            return None
        return f"site {site} did not take over what was sent: it starts from {taken} of the {len(self.shared)} tensors"

    def _nothing_changed(self) -> str | None:
        """Running statistics move with the data, whether anything is learnt or not; they prove nothing."""
        parameters = {name for name in self._before if not is_statistic(name)}
        if not parameters <= set(self._current["unchanged"]):
            return None
        return f"the global model did not change: the aggregate left all {len(parameters)} parameters bit for bit"

    def _judge(self, *sentences: str | None) -> str | None:
        found = [f"round {self._current['round']}: {sentence}" for sentence in sentences if sentence]
        self.faults += found
        return found[0] if found else None


def _tensors(arrays: Mapping[str, np.ndarray], wire: Wire) -> dict[str, dict]:
    return {n: {"shape": list(np.shape(v)), "bytes": tensor_bytes(n, v, wire)} for n, v in arrays.items()}


def _num_bytes(tensors: Mapping[str, Mapping]) -> int:
    return sum(tensor["bytes"] for tensor in tensors.values())


def _fingerprints(model: Mapping[str, np.ndarray]) -> dict[str, bytes]:
    """Name -> hash of the values: a copy of the arrays may share their memory and change with them."""
    return {n: blake2b(np.ascontiguousarray(v).tobytes(), digest_size=16).digest() for n, v in model.items()}
