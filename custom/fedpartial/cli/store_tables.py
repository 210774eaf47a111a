"""What ``fedpartial store`` shows: plain values, and the same as tables."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from fedpartial.cli.console import say, say_faults
from fedpartial.cli.reply import FAILED
from fedpartial.errors import ConfigError
from fedpartial.evaluation.formats import class_label, size
from fedpartial.server.ledger import SERVER, Load, Loads, StageSummary
from fedpartial.server.model_store import GLOBAL, Entry, ModelStore, Removal

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

FOLDED = {"classes": 7, "network\npreset": 10, "distilled from": 10}
"""Columns that take several lines where the console is narrow -> their least width."""
DESCRIBED = ("classes", "network\npreset", "size", "stored (UTC)\nby job")
TRAFFIC, WORK = ("models\nup", "models\ndown", "bytes\nup", "bytes\ndown"), ("epochs", "steps")
NUMBERS = ("version", "size", *TRAFFIC, *WORK)
COPIES = "Backups of the store and models at other sites are not touched: see provision/README.md."


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What a command found: plain values for --json, and how to print it; ``code`` is the exit code."""

    content: dict
    show: Callable[[Console], None]
    code: int = 0


def one_line(content: dict, text: str) -> Shown:
    return Shown(content=content, show=lambda console: say(console, text))


def listing(store: ModelStore) -> Shown:
    """``store list``: models in use, the global one, withdrawals."""
    found = [*store.sites().values(), *filter(None, [store.latest_global()])]
    kept = {entry.site: len(store.history(entry.site)) for entry in found}
    gone = {removal.site: removal.time for removal in store.removals() if removal.site not in kept}
    content = {
        "folder": str(store.folder),
        "sites": [asdict(entry) for entry in found if entry.site != GLOBAL],
        "global": next((asdict(entry) for entry in found if entry.site == GLOBAL), None),
        "removals": [asdict(removal) for removal in store.removals()],
    }

    def show(console: Console) -> None:
        say(console, f"store of {store.folder.name}: {store.folder}")
        rows = [[entry.site, f"{entry.version} of {kept[entry.site]}", *_described(entry)] for entry in found]
        headings = ("model", "version", *DESCRIBED)
        console.print(_table(headings, rows)) if rows else say(console, "No model is stored.")
        for site, time in gone.items():
            say(console, f"{site}: removed {_when(time)} UTC")

    return Shown(content=content, show=show)


def versions(store: ModelStore, site: str) -> Shown:
    """``store show``: all versions of one model, with the state of their files."""
    history, active = store.history(site), {**store.sites(), GLOBAL: store.latest_global()}.get(site)
    removals = [removal for removal in store.removals() if removal.site == site]
    if not history and not removals:
        known = [*store.sites(), *([GLOBAL] if store.globals() else [])]
        expected = f"one of {', '.join(known)}" if known else "a model that is stored; there is none"
        raise ConfigError(
            where=str(store.folder), field=site, got="no such model", expected=expected, remedy="Correct the name."
        )
    faults = {entry.version: _fault(store, entry) for entry in history}
    content = {
        "site": site,
        "active": active.version if active else None,
        "versions": [{**asdict(e), "file": "damaged" if faults[e.version] else "ok"} for e in history],
        "removals": [asdict(removal) for removal in removals],
    }

    def show(console: Console) -> None:
        rows = [_version(entry, active, bool(faults[entry.version])) for entry in history]
        taught = ("distilled from",) if site == GLOBAL else ()
        headings = ("version", "file\nchecksum", *DESCRIBED, *taught)
        if rows:
            console.print(_table(headings, rows))
        if active:
            say(console, f"{active.architecture['name']} of preset {active.preset}: {_arguments(active)}")
        for removal in removals:
            say(console, _removed(removal))
        say_faults(console, filter(None, faults.values()))

    return Shown(content=content, show=show, code=FAILED if any(faults.values()) else 0)


def withdrawal(store: ModelStore, removal: Removal) -> Shown:
    """``store remove``: what was deleted, and what has learnt from it and is still there."""
    left = store.manifest().distilled_from(removal.site)

    def show(console: Console) -> None:
        say(console, f"{removal.site}: {_removed(removal)}")
        if left:
            say(console, f"still there and distilled from it: global model {_numbers(left)}", "yellow")
            say(console, f"fedpartial store remove {removal.site} --with-globals deletes these too.")
        say(console, COPIES)

    return Shown(content={**asdict(removal), "globals_left": left}, show=show)


def loads(store: ModelStore) -> Shown:
    """``store ledger``: what every stage has cost, and all stages together."""
    summary = store.ledger.summary()
    stages = [{"stage": one.stage, "alone": _plain(one.alone), "cumulative": _plain(one.cumulative)} for one in summary]

    def show(console: Console) -> None:
        if not summary:
            say(console, "No message and no training is noted yet.")
            return
        headings = ("stage, site", *TRAFFIC, *WORK)
        console.print(_table(headings, [row for one in summary for row in _stage(one)]))

    return Shown(content={"stages": stages}, show=show)


def _stage(one: StageSummary) -> list[list[str]]:
    """A line for every site, and for the server where it trained; then the sums over this and earlier stages."""
    lines = [(site, load) for site, load in one.alone.sites.items()]
    lines += [(SERVER, one.alone.server)] if one.alone.server != Load() else []
    lines.append(("all sites so far", one.cumulative.all_sites))
    lines += [("server so far", one.cumulative.server)] if one.cumulative.server != Load() else []
    title = [one.stage, *[""] * len((*TRAFFIC, *WORK))]  # a column of its own would not fit a narrow console
    return [title, *([f"  {who}", *_load(load)] for who, load in lines)]


def _load(load: Load) -> list[str]:
    work = [f"{load.epochs:.1f}", str(load.steps)]
    return [str(load.messages_up), str(load.messages_down), size(load.bytes_up), size(load.bytes_down), *work]


def _plain(given: Loads) -> dict:
    return {**asdict(given), "all_sites": asdict(given.all_sites)}


def _fault(store: ModelStore, entry: Entry) -> ConfigError | None:
    try:
        store.load(entry)
    except ConfigError as error:
        return error
    return None


def _described(entry: Entry) -> list[str]:
    kind = entry.architecture["arguments"].get("extractor", entry.architecture["name"])
    classes = ", ".join(map(class_label, entry.classes))
    return [classes, f"{kind}\n{entry.preset}", size(entry.num_bytes), f"{_when(entry.time)}\n{entry.job}"]


def _version(entry: Entry, active: Entry | None, is_damaged: bool) -> list[str]:
    number = f"{entry.version} *" if active and entry.version == active.version else str(entry.version)
    taught = [", ".join(f"{site} {version}" for site, version in entry.teachers.items())] if entry.teachers else []
    state = f"{'damaged' if is_damaged else 'ok'}\n{entry.checksum[:12]}"
    return [number, state, *_described(entry), *taught]


def _removed(removal: Removal) -> str:
    gone = [f"version {_numbers(removal.versions)}"] if removal.versions else []
    gone += [f"global model {_numbers(removal.globals_deleted)}"] if removal.globals_deleted else []
    return f"removed {_when(removal.time)} UTC: {' and '.join(gone)} deleted"


def _arguments(entry: Entry) -> str:
    return ", ".join(f"{name} {json.dumps(value)}" for name, value in entry.architecture["arguments"].items())


def _when(time: str) -> str:
    """'2026-11-22 01:30'."""
    return f"{time[:10]} {time[11:16]}"


def _numbers(versions: Iterable[int]) -> str:
    return ", ".join(map(str, versions))


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD)
    for heading in headings:
        justify = "right" if heading in NUMBERS else "left"
        narrow = {"min_width": FOLDED[heading], "overflow": "fold"} if heading in FOLDED else {"no_wrap": True}
        table.add_column(heading, justify=justify, **narrow)
    for row in rows:
        table.add_row(*map(Text, row))
    return table
