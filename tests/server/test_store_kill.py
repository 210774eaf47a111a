"""The model store survives kill -9 at every step of every change; readers see the state before or the one after."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from store_killer import CHANGES, fill, state

from fedpartial.server.model_store import ModelStore

SCRIPT = Path(__file__).with_name("store_killer.py")


def assert_survives(folder: Path, *changes: str) -> None:
    """Killed at any step, the store is as before or as after, and the change can be repeated."""
    command = [sys.executable, str(SCRIPT), str(folder), *changes]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert list(found) == list(changes)
    for change in changes:
        assert found[change]["faults"] == [], change
        assert found[change]["kills"] >= 9, "manifest and copy: opened, synchronised, renamed, folder"


def test_an_update_that_is_killed_at_any_step_leaves_a_whole_store(tmp_path):
    assert_survives(tmp_path, "update")


@pytest.mark.slow
def test_any_change_that_is_killed_at_any_step_leaves_a_whole_store(tmp_path):
    assert_survives(tmp_path, *CHANGES)


def trace(folder: Path, change, monkeypatch) -> tuple[list[tuple[str, str]], list]:
    """The steps of a change as (what, path), and what a reader sees before each of them."""
    steps, seen = [], []
    real = {name: getattr(os, name) for name in ("replace", "fsync", "unlink")}

    def step(what: str, path: str) -> None:
        steps.append((what, os.path.relpath(path, folder)))
        seen.append(state(ModelStore(folder)))

    def fsync(descriptor: int) -> None:
        step("sync", os.readlink(f"/proc/self/fd/{descriptor}"))
        real["fsync"](descriptor)

    def replace(source, target) -> None:
        step("rename", os.fspath(source))
        step("to", os.fspath(target))
        real["replace"](source, target)

    def unlink(path, **where) -> None:
        step("delete", os.fspath(path))
        real["unlink"](path, **where)

    with monkeypatch.context() as patched:
        for name, fake in (("fsync", fsync), ("replace", replace), ("unlink", unlink)):
            patched.setattr(os, name, fake)
        change(ModelStore(folder))
    return steps, seen


@pytest.mark.parametrize("change", [name for name, (is_filled, _) in CHANGES.items() if is_filled])
def test_a_reader_sees_the_state_before_until_it_sees_the_one_after(tmp_path, monkeypatch, change):
    store = ModelStore(tmp_path.resolve() / "store")
    fill(store)
    before = state(store)
    steps, seen = trace(store.folder, CHANGES[change][1], monkeypatch)
    after = state(store)
    turn = steps.index(("to", "manifest.json")) + 1
    assert seen == [before] * turn + [after] * (len(seen) - turn)


@pytest.mark.parametrize("change", [name for name, (is_filled, _) in CHANGES.items() if is_filled])
def test_what_is_renamed_is_on_the_disk_before_and_its_folder_after(tmp_path, monkeypatch, change):
    """A process cannot pull the plug, but this order is what a disk needs."""
    store = ModelStore(tmp_path.resolve() / "store")
    fill(store)
    steps, _ = trace(store.folder, CHANGES[change][1], monkeypatch)
    renames = [number for number, (what, _) in enumerate(steps) if what == "rename"]
    assert len(renames) >= 2
    for number in renames:
        source, target = steps[number][1], steps[number + 1][1]
        assert steps[number - 1] == ("sync", source)
        assert steps[number + 2] == ("sync", os.path.dirname(target) or ".")
    committed = steps.index(("to", "manifest.json.copy")) + 1
    assert steps.index(("to", "manifest.json")) < committed, "a copy is never ahead of what it is a copy of"
    deleted = [number for number, (what, path) in enumerate(steps) if what == "delete"]
    assert all(number > committed for number in deleted), "the manifest forgets a file before it goes"
    assert bool(deleted) == change.startswith("remove")


WRONG_ORDER = """
import json, sys
from pathlib import Path

sys.path.insert(0, sys.argv[2])
import store_killer
from fedpartial.server import manifest_file, model_store

late, write, commit = [], model_store.write_durably, manifest_file.ManifestFile.commit

def commit_first(self, manifest):
    commit(self, manifest)
    while late:
        path, content = late.pop()
        path.parent.mkdir(exist_ok=True)
        write(path, content)

model_store.write_durably = lambda path, content: late.append((path, content))
manifest_file.ManifestFile.commit = commit_first
store_killer.without_torch()
print(json.dumps(store_killer.sweep(Path(sys.argv[1]), "update")))
"""


@pytest.mark.slow
def test_the_killer_finds_a_store_whose_manifest_names_a_model_before_it_is_written(tmp_path):
    command = [sys.executable, "-c", WRONG_ORDER, str(tmp_path), str(SCRIPT.parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    faults = json.loads(done.stdout)["faults"]
    assert faults
    assert all("no such file" in fault for fault in faults)
