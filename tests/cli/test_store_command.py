"""``fedpartial store``: what it shows, what it changes, its exit codes, and that a mistake is one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from fedpartial.cli.main import app
from fedpartial.presets import get_preset
from fedpartial.server.model_store import ModelStore

UNET, SWIN = get_preset("phantom_mmds"), get_preset("phantom_mmds_swin")


def model(value: float, *classes: str) -> dict[str, np.ndarray]:
    return {"head": np.full(4, value, np.float32), **{f"embeddings.{name}": np.ones(3, np.float32) for name in classes}}


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("FEDPARTIAL_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def store(home) -> ModelStore:
    """Two sites and a global model of the federation "abdomen"."""
    found = ModelStore(home / "store" / "abdomen")
    found.add("liver", model(1, "liver"), preset=UNET, job="stage 1")
    found.add("liver", model(2, "liver", "liver_tumor"), preset=UNET, job="stage 2")
    found.add("spleen", model(3, "spleen"), preset=SWIN, job="stage 2")
    found.add_global(model(4, "liver"), preset=UNET, job="stage 2", teachers={"liver": 2})
    return found


@pytest.fixture
def call(home) -> Callable[..., Result]:
    def invoke(*arguments: object, **options) -> Result:
        result = CliRunner().invoke(
            app, ["store", *map(str, arguments)], env={"COLUMNS": "120", "TERM": "dumb"}, **options
        )
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return invoke


@pytest.mark.parametrize("command", ["list", "ledger"])
def test_an_empty_home_is_no_fault(call, home, command):
    result = call(command)
    assert result.exit_code == 0
    assert f"No federation has stored a model in {home / 'store'} yet" in result.output
    assert json.loads(call(command, "--json").stdout) == {"errors": [], "exit_code": 0}
    assert not (home / "store").exists()


@pytest.mark.parametrize("arguments", [("show", "liver"), ("rollback", "liver", 1), ("remove", "liver", "--yes")])
def test_what_needs_a_store_says_that_there_is_none(call, arguments):
    result = call(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: No federation has stored a model")


def test_list_shows_every_sites_model_and_the_global_one(call, store):
    result = call("list")
    assert result.exit_code == 0
    lines = result.output.splitlines()
    (liver,) = (line for line in lines if line.split()[:1] == ["liver"])
    assert liver.split()[1:7] == ["2", "of", "2", "liver,", "liver", "tumor"]
    (spleen,) = (line for line in lines if line.split()[:1] == ["spleen"])
    assert "swin_unetr" in spleen
    assert any(line.split()[:1] == ["global"] for line in lines)
    content = json.loads(call("list", "--json").stdout)
    assert {entry["site"]: entry["version"] for entry in content["sites"]} == {"liver": 2, "spleen": 1}
    assert content["global"]["teachers"] == {"liver": 2}
    assert content["sites"][1]["architecture"]["arguments"]["extractor"] == "swin_unetr"


@pytest.mark.parametrize("arguments", [("list",), ("show", "liver")])
def test_a_narrow_console_loses_no_column(store, arguments):
    output = CliRunner().invoke(app, ["store", *arguments], env={"COLUMNS": "80", "TERM": "dumb"}).output
    entry = store.history("liver")[1]
    for word in ("liver", "phantom_mm", f"{entry.num_bytes} bytes", "stage 2", entry.time[:16].replace("T", " ")):
        assert word in output


def test_show_names_every_version_and_checks_its_file(call, store):
    result = call("show", "liver")
    assert result.exit_code == 0
    assert 'extractor "unet"' in result.output
    assert "2 *" in result.output
    assert "spleen" not in result.output
    assert "liver 2" in call("show", "global").output
    path = next(store.folder.glob("models/liver/v00001-*"))
    path.write_bytes(b"damaged")
    result = call("show", "liver")
    assert result.exit_code == 1
    assert path.name in result.output
    files = [version["file"] for version in json.loads(call("show", "liver", "--json").stdout)["versions"]]
    assert files == ["damaged", "ok"]


def test_a_roll_back_changes_the_model_in_use(call, store):
    result = call("rollback", "liver", 1)
    assert (result.exit_code, result.output) == (0, "liver: version 1 is in use\n")
    assert store.sites()["liver"].version == 1
    assert json.loads(call("rollback", "liver", 2, "--json").stdout)["version"] == 2


def test_a_site_is_removed_after_a_question(call, store):
    assert call("remove", "liver", input="n\n").exit_code == 1
    assert call("remove", "liver", input="").exit_code == 1, "nobody there to ask"
    assert "liver" in store.sites()
    result = call("remove", "liver", input="y\n")
    assert result.exit_code == 0
    assert "version 1, 2 deleted" in result.output
    assert "still there and distilled from it: global model 1" in result.output
    assert list(store.sites()) == ["spleen"]
    assert "liver: removed" in call("list").output
    assert "version 1, 2 deleted" in call("show", "liver").output


def test_global_models_go_with_it_if_asked_and_json_is_json(call, store):
    result = call("remove", "liver", "--with-globals", "--json", "--yes")
    assert result.exit_code == 0
    content = json.loads(result.stdout)
    assert (content["versions"], content["globals_deleted"], content["globals_left"]) == ([1, 2], [1], [])
    assert store.latest_global() is None
    assert call("remove", "liver", "--with-globals").exit_code == 0, "nothing left: no question"


def test_the_ledger_shows_stages_and_sums(call, store):
    assert "No message" in call("ledger").output
    for stage in ("one", "two"):
        store.ledger.message(stage, "liver", "up", "model", 4_000_000)
        store.ledger.work(stage, "server", steps=10, epochs=2, seconds=61)
    lines = [line.split() for line in call("ledger").output.splitlines()]
    assert ["one"] in lines
    assert ["liver", "1", "0", "4.0", "MB", "0", "bytes", "0.0", "0"] in lines
    assert ["all", "sites", "so", "far", "2", "0", "8.0", "MB", "0", "bytes", "0.0", "0"] in lines
    assert ["server", "so", "far", "0", "0", "0", "bytes", "0", "bytes", "4.0", "20"] in lines
    content = json.loads(call("ledger", "--json").stdout)
    assert [stage["cumulative"]["all_sites"]["bytes_up"] for stage in content["stages"]] == [4_000_000, 8_000_000]


def test_of_several_federations_one_must_be_named(call, store, home):
    ModelStore(home / "store" / "heads").add("brain", model(1, "liver"), preset=UNET, job="j")
    result = call("list")
    assert result.exit_code == 2
    assert "2 federations" in result.stderr
    assert "one of abdomen, heads" in result.stderr
    assert "brain" in call("list", "--federation", "heads").output
    assert call("list", "--federation", "lungs").exit_code == 2


def test_a_folder_of_stores_or_a_store_may_be_named(call, store, tmp_path):
    assert "spleen" in call("list", "--store", store.folder.parent).output
    assert "spleen" in call("list", "--store", store.folder).output
    result = call("list", "--store", tmp_path / "elsewhere")
    assert result.exit_code == 2
    assert "local/store.json" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("show", "kidney"), "one of liver, spleen, global"),
        (("rollback", "liver", 9), "one of 1, 2"),
        (("rollback", "kidney", 1), "no model of this name"),
        (("remove", "kidney", "--yes"), "no model of this name"),
        (("remove", "global", "--yes"), "name: got 'global'"),
    ],
)
def test_a_mistake_is_one_sentence(call, store, arguments, message):
    before = store.sites()
    result = call(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert store.sites() == before


def test_a_damaged_store_is_named(call, store):
    (store.folder / "manifest.json").write_text("{")
    result = call("list")
    assert result.exit_code == 2
    assert f"error: {store.folder / 'manifest.json'}" in result.stderr
    assert "manifest.json.copy" in result.stderr


def test_a_store_that_cannot_be_written_is_a_failure(call, store, monkeypatch):
    from fedpartial.server import durable

    def read_only(*_) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(durable.os, "replace", read_only)
    result = call("rollback", "liver", 1)
    assert result.exit_code == 1
    assert "Permission denied" in result.stderr
