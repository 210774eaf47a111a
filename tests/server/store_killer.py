"""Changes a model store in processes that are killed at every one of their steps, and looks at what is left.

A program of its own, which imports once and then forks: one process to be killed, and one that opens the store after
it. Arguments: an empty folder, names of CHANGES. Prints {"change": {"kills": n, "faults": [...]}} as JSON.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import sys
import traceback
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fedpartial.presets import get_preset
from fedpartial.server.model_store import DISTILLING, PROBABILITIES, ModelStore

PRESET = get_preset("phantom_mmds")
STEPS = ("os.rename", "os.remove", "os.rmdir", "os.mkdir")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def model(value: float) -> dict[str, np.ndarray]:
    return {"head": np.full(50, value, np.float32), "embeddings.liver": np.ones(3, np.float32)}


def fill(store: ModelStore) -> None:
    store.add("liver", model(1), preset=PRESET, job="j")
    store.add("spleen", model(2), preset=PRESET, job="j")
    store.add_global(model(3), preset=PRESET, job="j", teachers={"liver": 1, "spleen": 1})
    store.add("liver", model(4), preset=PRESET, job="j")
    for entry in store.history("liver"):
        cached = store.folder / PROBABILITIES / entry.key
        cached.mkdir(parents=True)
        (cached / "case.npy").write_bytes(b"1")
    (store.folder / DISTILLING).mkdir()
    (store.folder / DISTILLING / "state").write_bytes(b"1")
    store.ledger.message("first", "liver", "up", "model", 10)


CHANGES: dict[str, tuple[bool, Callable[[ModelStore], object]]] = {
    "first add": (False, lambda s: s.add("liver", model(1), preset=PRESET, job="j")),
    "add": (True, lambda s: s.add("kidney", model(5), preset=PRESET, job="j")),
    "update": (True, lambda s: s.add("liver", model(5), preset=PRESET, job="j")),
    "roll back": (True, lambda s: s.roll_back("liver", 1)),
    "remove": (True, lambda s: s.remove("liver")),
    "remove with globals": (True, lambda s: s.remove("liver", with_globals=True)),
    "add global": (True, lambda s: s.add_global(model(6), preset=PRESET, job="j", teachers={"liver": 2})),
}
"""Name -> whether the store is filled before, and the change."""


def state(store: ModelStore) -> list:
    """All that the store says, without times; every file is loaded, so its checksum is verified."""
    manifest = store.manifest()
    listed = [(e.key, e.classes, e.teachers, store.load(e)["head"][0].item()) for e in manifest.entries()]
    in_use = [(name, record.active, record.last_version) for name, record in manifest.records.items()]
    removals = [(removal.site, removal.versions, removal.globals_deleted) for removal in manifest.removals]
    return [listed, in_use, removals, len(store.ledger.read())]


def names(store: ModelStore) -> list[str]:
    return sorted(str(path.relative_to(store.folder)) for path in store.folder.rglob("*"))


class Killer:
    """Ends the process before its step number ``at``.

    ``torn``: only before a file is on the disk, and the file then loses its second half, as when the power goes.
    """

    def __init__(self, folder: Path, at: int, *, torn: bool):
        self.folder, self.left, self.fsync = str(folder), at, os.fsync
        os.fsync = self.tear if torn else self.synchronise
        if not torn:
            sys.addaudithook(self.look)

    def look(self, event: str, arguments: tuple) -> None:
        wanted = event in STEPS or (event == "open" and (arguments[2] or 0) & WRITING)
        if wanted and (os.fspath(arguments[0]).startswith(self.folder) or event in ("os.remove", "os.rmdir")):
            self.step()

    def synchronise(self, descriptor: int) -> None:
        self.step()
        self.fsync(descriptor)

    def tear(self, descriptor: int) -> None:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            if self.left == 0:
                os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
            self.step()
        self.fsync(descriptor)

    def step(self) -> None:
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1


def in_a_process(do: Callable[[], None]) -> tuple[int, str]:
    """Its wait status and what it wrote before it ended."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            do()
            os._exit(0)
        except BaseException:  # noqa: BLE001 a forked process must not go on as its parent
            os.write(writer, traceback.format_exc()[-2000:].encode())
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    return os.waitpid(pid, 0)[1], text


def sweep(root: Path, name: str) -> dict:
    """One change, killed at its first step, its second ... until it comes to its end."""
    is_filled, change = CHANGES[name]
    template, after = root / "template", ModelStore(root / "after" / "store")
    template.mkdir(parents=True)
    if is_filled:
        fill(ModelStore(template / "store"))
    before = state(ModelStore(template / "store"))
    shutil.copytree(template, after.folder.parent)
    change(after)
    expected, expected_names = state(after), names(after)
    assert expected != before
    faults, kills = [], 0
    for torn in (False, True):
        at, ended = 0, False
        while not ended:
            store = ModelStore(root / f"killed-{torn}-{at}" / "store")
            shutil.copytree(template, store.folder.parent)

            def be_killed(store=store, at=at, torn=torn) -> None:
                Killer(store.folder.parent, at, torn=torn)
                change(store)

            def look(store=store) -> None:
                found = state(store)
                assert found in (before, expected), f"neither before nor after: {found}"
                change(store)
                assert state(store) == expected, f"repeated: {state(store)}"
                assert names(store) == expected_names, f"left: {names(store)}"

            status, text = in_a_process(be_killed)
            ended = os.WIFEXITED(status)
            if text or (not ended and os.WTERMSIG(status) != signal.SIGKILL):
                faults.append(f"step {at}: not killed as meant: {status} {text}")
            status, text = in_a_process(look)
            if status:
                faults.append(f"killed at step {at}{', torn' if torn else ''}: {text}")
            kills, at = kills + (not ended), at + 1
            shutil.rmtree(store.folder.parent)
    return {"kills": kills, "faults": faults}


def without_torch() -> None:
    """It would cost every run two seconds, and each fork its memory; of this module the store needs one function."""
    universal = types.ModuleType("fedpartial.networks.universal")
    universal.universal_classes = lambda names: tuple(n.split(".")[1] for n in names if n.startswith("embeddings."))
    sys.modules[universal.__name__] = universal


if __name__ == "__main__":
    without_torch()
    folder, *chosen = sys.argv[1:]
    print(json.dumps({name: sweep(Path(folder) / name.replace(" ", "_"), name) for name in chosen}))
