"""What a report says about the exchange: facts by name in report.json, and the same as a reader sees them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby

import numpy as np

ROUND_VALUES = ("tensors_down", "bytes_down", "sites", "tensors_up", "bytes_up", "tensors_not_zero", "tensors_changed")
"""Of each round, in the order of the page: down is one message of the server, up the smallest number of tensors, the
largest of bytes and the fewest tensors that are not all zero in an update of its sites."""
BY_ROUND = "rounds_"
"""Before the name of a list with one value per round; the first one numbers them."""
NUMBERS = f"{BY_ROUND}number"
NETWORK = "network_"
"""Before the name of a fact by site on its whole network, shared and private."""
SIZES = ("tensors", "parameters", "bytes")
MESSAGE_BYTES = "bytes_per_message"
NAMES, NEVER_CHANGED = "shared_names", "never_changed"
TOTALS = ("bytes_up", "bytes_down")
NumBytes = Callable[[Mapping[str, np.ndarray]], int]


def array_bytes(arrays: Mapping[str, np.ndarray]) -> int:
    return sum(int(value.nbytes) for value in arrays.values())


def exchange_facts(
    rounds: Sequence[Mapping],
    shared: Mapping[str, np.ndarray],
    private: Mapping[str, Mapping[str, np.ndarray]],
    num_bytes: NumBytes = array_bytes,
) -> dict[str, object]:
    """Facts for ``RunRecord.exchange``.

    rounds: finished rounds of an ExchangeLog (RunHistory.exchange). shared: the tensors that travel, by name.
    private: site -> its tensors that do not; {} where everything travels. num_bytes: of tensors as they travel.
    """
    size = _size(shared, num_bytes)
    return {
        "tensors": size["tensors"],
        "parameters": size["parameters"],
        MESSAGE_BYTES: size["bytes"],
        NAMES: list(shared),
        NEVER_CHANGED: _never_changed(rounds),
        **_whole_networks(size, private, num_bytes),
        **_by_round(rounds),
    }


def exchange_section(exchange: Mapping) -> dict:
    """The exchange of report.json for the page.

    shared: tensors, parameters, bytes, names, never_changed; None in a report without. networks: site -> sizes of the
    whole network, of what stays, and the share of its bytes that travels. rounds: equal rounds in one row.
    aggregates: whether any round had an aggregate.
    other: facts that this page knows nothing of.
    """
    known = {"tensors", "parameters", MESSAGE_BYTES, NAMES, NEVER_CHANGED, *TOTALS}
    other = {k: v for k, v in exchange.items() if k not in known and not k.startswith((BY_ROUND, NETWORK))}
    shared = None
    if NAMES in exchange:
        sizes = dict(zip(SIZES, (exchange["tensors"], exchange["parameters"], exchange[MESSAGE_BYTES]), strict=True))
        shared = {**sizes, "names": exchange[NAMES], "never_changed": exchange[NEVER_CHANGED]}
    return {
        "shared": shared,
        "networks": _networks(exchange, shared),
        "rounds": _merged(exchange),
        "aggregates": any(changed is not None for changed in exchange.get(f"{BY_ROUND}tensors_changed", ())),
        "totals": {name: exchange.get(name) for name in TOTALS},
        "other": other,
    }


def _size(arrays: Mapping[str, np.ndarray], num_bytes: NumBytes) -> dict[str, int]:
    numbers = (len(arrays), sum(int(v.size) for v in arrays.values()), num_bytes(arrays))
    return dict(zip(SIZES, numbers, strict=True))


def _whole_networks(
    shared: Mapping[str, int], private: Mapping[str, Mapping], num_bytes: NumBytes
) -> dict[str, dict[str, int]]:
    own = {site: _size(arrays, num_bytes) for site, arrays in sorted(private.items())}
    return {f"{NETWORK}{key}": {site: shared[key] + size[key] for site, size in own.items()} for key in SIZES if own}


def _never_changed(rounds: Sequence[Mapping]) -> list[str]:
    """Names that every aggregate left as they were."""
    unchanged = [noted["unchanged"] for noted in rounds if noted["unchanged"] is not None]
    return [name for name in unchanged[0] if all(name in names for names in unchanged)] if unchanged else []


def _by_round(rounds: Sequence[Mapping]) -> dict[str, list]:
    values = [_round_values(noted) for noted in rounds]
    columns = {f"{BY_ROUND}{name}": [v[name] for v in values] for name in ROUND_VALUES}
    return {NUMBERS: [noted["round"] for noted in rounds], **columns} if rounds else {}


def _round_values(noted: Mapping) -> dict:
    sites = list(noted["sites"].values())
    return {
        **{name: noted[name] for name in ("tensors_down", "bytes_down", "tensors_changed")},
        "sites": len(sites),
        "tensors_up": min((site["tensors_up"] for site in sites), default=None),
        "bytes_up": max((site["bytes_up"] for site in sites), default=None),
        "tensors_not_zero": min((site["tensors_not_zero"] for site in sites), default=None),
    }


def _networks(exchange: Mapping, shared: Mapping | None) -> dict[str, dict]:
    by_site = exchange.get(f"{NETWORK}bytes", {}) if shared else {}
    networks = {}
    for site in by_site:
        whole = {key: exchange[f"{NETWORK}{key}"][site] for key in SIZES}
        kept = {key: whole[key] - shared[key] for key in SIZES}
        networks[site] = {"whole": whole, "kept": kept, "share": shared["bytes"] / whole["bytes"]}
    return networks


def _merged(exchange: Mapping) -> list[dict]:
    """One row for consecutive rounds in which the same moved."""
    columns = [exchange.get(f"{BY_ROUND}{name}", ()) for name in ROUND_VALUES]
    rows = zip(exchange.get(NUMBERS, ()), *columns, strict=True)
    merged = []
    for values, group in groupby(rows, key=lambda row: row[1:]):
        numbers = [row[0] for row in group]
        merged.append({"first": numbers[0], "last": numbers[-1], **dict(zip(ROUND_VALUES, values, strict=True))})
    return merged
