"""The model store: versions, withdrawal, what is refused, and that nothing is lost by a refusal."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from fedpartial.errors import ConfigError, NoSpaceLeft
from fedpartial.presets import get_preset
from fedpartial.server import durable
from fedpartial.server.model_store import DISTILLING, GLOBAL, LEDGER, PROBABILITIES, Entry, ModelStore
from fedpartial.server.store_manifest import COPY, MANIFEST
from fedpartial.server.store_place import STORE_FILE, default_stores, store_folder

UNET, SWIN = get_preset("phantom_mmds"), get_preset("phantom_mmds_swin")


def model(value: float, *classes: str) -> dict[str, np.ndarray]:
    """A universal network's state, as far as the store looks at it: a class is a name."""
    names = classes or ("liver",)
    arrays = {f"embeddings.{name}": np.ones(3, np.float32) for name in names}
    return {"head.weight": np.full((2, 3), value, np.float32).T, "scale": np.float32(value), **arrays}


@pytest.fixture
def store(tmp_path) -> ModelStore:
    return ModelStore(tmp_path / "federation")


@pytest.fixture
def filled(store) -> ModelStore:
    """liver with two versions, spleen, and a global model of liver 1 and spleen 1, then one of spleen alone."""
    store.add("liver", model(1), preset=UNET, job="stage 1")
    store.add("spleen", model(2, "spleen"), preset=SWIN, job="stage 1")
    store.add_global(model(3, "liver", "spleen"), preset=UNET, job="stage 1", teachers={"spleen": 1, "liver": 1})
    store.add("liver", model(4, "liver_tumor", "liver"), preset=UNET, job="stage 2")
    store.add_global(model(5, "spleen"), preset=UNET, job="stage 2", teachers={"spleen": 1})
    return store


def files(store: ModelStore) -> dict[str, bytes]:
    paths = (path for path in store.folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(store.folder)): path.read_bytes() for path in paths}


def assert_refused(store: ModelStore, *said: str) -> None:
    """By reading and by writing, with these words, and without a change."""
    before = files(store)
    actions = (
        store.sites,
        store.latest_global,
        lambda: store.history("liver"),
        lambda: store.add("kidney", model(9), preset=UNET, job="j"),
        lambda: store.remove("liver"),
        lambda: store.roll_back("liver", 1),
    )
    for action in actions:
        with pytest.raises(ConfigError) as error:
            action()
        assert not [words for words in said if words not in str(error.value)], str(error.value)
    assert files(store) == before


def test_a_store_that_is_not_there_is_empty_and_looking_makes_nothing(store):
    assert (store.sites(), store.globals(), store.latest_global(), store.history("liver")) == ({}, [], None, ())
    assert store.removals() == ()
    assert not store.folder.exists()


def test_a_version_says_everything_about_its_model(store):
    entry = store.add("liver", model(1, "liver_tumor", "liver"), preset=SWIN, job="stage 1")
    (path,) = store.folder.glob("models/liver/*.safetensors")
    assert (entry.site, entry.version, entry.preset, entry.job) == ("liver", 1, "phantom_mmds_swin", "stage 1")
    assert entry.classes == ("liver", "liver_tumor"), "in the order of the label space"
    assert entry.architecture["name"] == "UniversalConfig"
    assert entry.architecture["arguments"] == json.loads(json.dumps(asdict(SWIN.network)))
    assert entry.checksum == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (entry.num_bytes, entry.time[-6:], entry.teachers) == (path.stat().st_size, "+00:00", {})
    assert ModelStore(store.folder).sites() == {"liver": entry}


def test_another_process_reads_the_same_arrays_and_may_write_into_them(filled):
    other = ModelStore(filled.folder)
    loaded, given = other.load(other.sites()["liver"]), model(4, "liver_tumor", "liver")
    assert set(loaded) == set(given)
    for name, value in given.items():
        assert np.array_equal(loaded[name], value)
        assert loaded[name].dtype == np.float32
        assert loaded[name].flags.writeable


def test_an_update_replaces_one_site_and_keeps_its_history(filled):
    assert {name: entry.version for name, entry in filled.sites().items()} == {"liver": 2, "spleen": 1}
    first, second = filled.history("liver")
    assert (filled.load(first)["scale"], filled.load(second)["scale"]) == (1, 4)
    assert [entry.teachers for entry in filled.globals()] == [{"liver": 1, "spleen": 1}, {"spleen": 1}]
    assert filled.latest_global().version == 2


def test_the_model_in_use_makes_no_new_version_in_whatever_order_its_tensors_come(filled):
    again = dict(reversed(model(4, "liver_tumor", "liver").items()))
    assert filled.add("liver", again, preset=UNET, job="another") == filled.history("liver")[-1]
    assert filled.add("liver", model(1), preset=SWIN, job="another").version == 3, "another network is another model"
    taught = filled.add_global(model(5, "spleen"), preset=UNET, job="another", teachers={"spleen": 1})
    assert taught.version == 2
    taught = filled.add_global(model(5, "spleen"), preset=UNET, job="another", teachers={"liver": 3})
    assert taught.version == 3, "another origin is another model"


def test_a_roll_back_keeps_everything_and_the_next_version_has_a_new_number(filled):
    assert filled.roll_back("liver", 1) == filled.sites()["liver"]
    assert [entry.version for entry in filled.history("liver")] == [1, 2]
    assert filled.add("liver", model(6), preset=UNET, job="j").version == 3
    filled.roll_back(GLOBAL, 1)
    assert filled.latest_global().version == 1
    with pytest.raises(ConfigError, match=r"version 9.*one of 1, 2, 3"):
        filled.roll_back("liver", 9)
    with pytest.raises(ConfigError, match=r"kidney.*one of global, liver, spleen"):
        filled.roll_back("kidney", 1)


def cache(store: ModelStore, name: str) -> Path:
    folder = store.folder / PROBABILITIES / name
    folder.mkdir(parents=True)
    (folder / "case.npy").write_bytes(b"1")
    return folder


def test_who_withdraws_leaves_nothing_but_a_note(filled):
    own = [cache(filled, entry.key) for entry in filled.history("liver")]
    others = [cache(filled, filled.history("spleen")[0].key), cache(filled, "liver"), cache(filled, "notes")]
    removal = filled.remove("liver")
    assert (removal.site, removal.versions, removal.distilled_into, removal.globals_deleted) == (
        "liver",
        (1, 2),
        (1,),
        (),
    )
    assert filled.removals() == (removal,)
    assert (list(filled.sites()), filled.history("liver")) == (["spleen"], ())
    assert not (filled.folder / "models" / "liver").exists()
    assert [folder.exists() for folder in own + others] == [False, False, True, True, True]
    assert filled.load(filled.globals()[0])["scale"] == 3, "a global model stays unless asked for"
    assert (filled.folder / COPY).read_bytes() == (filled.folder / MANIFEST).read_bytes()


def test_global_models_go_with_their_teacher_if_asked_also_later(filled):
    filled.roll_back(GLOBAL, 1)
    filled.remove("liver")
    removal = filled.remove("liver", with_globals=True)
    assert removal.globals_deleted == (1,)
    assert [entry.version for entry in filled.globals()] == [2]
    assert filled.latest_global().version == 2, "the latest that has learnt from nobody who withdrew"
    assert filled.remove("liver", with_globals=True) == removal, "a second time changes nothing"
    assert filled.remove("spleen", with_globals=True).globals_deleted == (2,)
    assert filled.latest_global() is None
    assert filled.add_global(model(1), preset=UNET, job="j", teachers={}).version == 3


def test_who_comes_back_gets_new_numbers_and_the_note_stays(filled):
    filled.remove("liver")
    assert filled.add("liver", model(1), preset=UNET, job="j").version == 3
    assert [removal.site for removal in filled.removals()] == ["liver"]


def test_a_withdrawal_while_the_server_distils_is_respected(filled):
    filled.remove("spleen")
    with pytest.raises(ConfigError, match=r"teacher spleen, version 1.*withdrawn meanwhile"):
        filled.add_global(model(6), preset=UNET, job="j", teachers={"liver": 2, "spleen": 1})
    assert len(filled.globals()) == 2


@pytest.mark.parametrize("site", ["", "global", "../liver", "a/b", ".hidden", "a b", "x" * 65, "leber\n", None])
def test_a_name_that_is_no_folders_is_refused(store, site):
    with pytest.raises(ConfigError, match="name: got"):
        store.add(site, model(1), preset=UNET, job="j")
    with pytest.raises(ConfigError, match="name: got"):
        store.remove(site)
    assert not store.folder.exists()


@pytest.mark.parametrize("weights", [{}, {"a": np.ones(1)}, model(1, "elbow")])
def test_weights_without_a_known_class_are_no_model(store, weights):
    with pytest.raises(ConfigError, match="a universal network of classes of preset 'phantom_mmds'"):
        store.add("liver", weights, preset=UNET, job="j")
    assert not store.folder.exists()


def test_who_was_never_there_cannot_withdraw(filled):
    with pytest.raises(ConfigError, match=r"kidney.*one of global, liver, spleen"):
        filled.remove("kidney")


def only_file(store: ModelStore, entry: Entry) -> Path:
    return store.folder / "models" / entry.site / entry.file_name


@pytest.mark.parametrize("damage", [b"", b"\x80pickle", None])
def test_a_damaged_model_is_named_and_the_others_are_as_good_as_before(filled, damage):
    entry = filled.sites()["liver"]
    path = only_file(filled, entry)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"?" if damage is None else damage)
    with pytest.raises(ConfigError, match=rf"{entry.file_name}.*damaged.*version 2 of 'liver'.*roll back"):
        filled.load(entry)
    assert filled.load(filled.roll_back("liver", 1))["scale"] == 1
    filled.roll_back("liver", 2)
    assert filled.add("liver", model(4, "liver", "liver_tumor"), preset=UNET, job="j").version == 3, (
        "sent again: mended"
    )


def test_a_version_that_was_removed_meanwhile_is_named(filled):
    entry = filled.sites()["liver"]
    filled.remove("liver")
    with pytest.raises(ConfigError, match=r"no such file.*removed meanwhile"):
        filled.load(entry)


def edit(store: ModelStore, how) -> None:
    content = json.loads((store.folder / MANIFEST).read_text())
    how(content)
    (store.folder / MANIFEST).write_text(json.dumps(content))


FAULTS = {
    "a newer format": (lambda c: c.update(format=2), "format: got 2", "newer fedpartial"),
    "no format": (lambda c: c.pop("format"), "'format' is a required property", COPY),
    "an unknown field": (lambda c: c.update(owner="me"), "owner", COPY),
    "a path for a name": (lambda c: c["models"].update({"../x": c["models"].pop("liver")}), "../x", COPY),
    "another site's entry": (lambda c: c["models"]["liver"]["entries"][0].update(site="spleen"), "models/liver", COPY),
    "no such version": (lambda c: c["models"]["liver"].update(active=7), "active version 7 of [1, 2]", COPY),
    "none in use": (lambda c: c["models"]["liver"].update(active=None), "active version None", COPY),
    "a version twice": (lambda c: c["models"]["liver"]["entries"][0].update(version=2), "[2, 2]", COPY),
    "a number too low": (lambda c: c["models"]["liver"].update(last_version=1), "the last one 1", COPY),
    "a short checksum": (lambda c: c["models"]["liver"]["entries"][0].update(checksum="1f"), "'1f'", COPY),
    "no class": (lambda c: c["models"]["liver"]["entries"][0].update(classes=[]), "classes", COPY),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_manifest_that_is_not_as_the_store_writes_it_is_refused_and_nothing_is_lost(filled, fault):
    how, *said = FAULTS[fault]
    edit(filled, how)
    assert_refused(filled, str(filled.folder / MANIFEST), *said)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\x00", b'{"format": 1, "format": 1}'])
def test_a_manifest_that_is_no_json_is_refused_and_its_copy_is_the_way_back(filled, content):
    before = filled.sites()
    (filled.folder / MANIFEST).write_bytes(content)
    assert_refused(filled, MANIFEST, f"Copy {COPY} over {MANIFEST}")
    (filled.folder / MANIFEST).write_bytes((filled.folder / COPY).read_bytes())
    assert filled.sites() == before
    assert filled.load(before["liver"])["scale"] == 4


@pytest.mark.parametrize("lost", [(MANIFEST,), (MANIFEST, COPY)])
def test_models_without_a_manifest_are_a_lost_manifest_and_not_an_empty_store(filled, lost):
    for name in lost:
        (filled.folder / name).unlink()
    assert_refused(filled, MANIFEST, "no such file", "backup")


@pytest.mark.parametrize("name", ["liver.safetensors", "models/liver.safetensors", "models/liver/v1.safetensors"])
def test_a_foreign_file_is_named_and_left_where_it_is(filled, name):
    (filled.folder / name).write_bytes(b"somebody's only copy")
    assert_refused(filled, Path(name).name, "Move it to another place")


def test_what_a_crash_has_left_goes_at_the_next_change_and_what_is_not_ours_stays(filled):
    entry = filled.sites()["liver"]
    ours = [
        filled.folder / f".fedpartial-{MANIFEST}.tmp",
        only_file(filled, replace(entry, version=3)),
        only_file(filled, replace(entry, site="kidney", version=1)),
        cache(filled, replace(entry, version=9).key) / "case.npy",
    ]
    others = [filled.folder / name for name in (".DS_Store", LEDGER, "distilling/x.tmp", "models/liver/.nfs01")]
    for path in ours + others:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    filled.sites()
    assert all(path.exists() for path in ours + others), "looking deletes nothing"
    filled.roll_back("liver", 1)
    assert [path.exists() for path in ours + others] == [False] * len(ours) + [True] * len(others)
    assert not (filled.folder / "models" / "kidney").exists()
    assert [len(filled.history(name)) for name in ("liver", "spleen", GLOBAL)] == [2, 1, 2]


def test_a_change_that_changes_nothing_finishes_what_a_crash_has_interrupted(filled):
    leftover = only_file(filled, replace(filled.sites()["liver"], version=3))
    leftover.write_bytes(b"of a withdrawal that was killed after its commit")
    (filled.folder / COPY).write_bytes(b"old")
    filled.add("liver", model(4, "liver", "liver_tumor"), preset=UNET, job="j")
    assert not leftover.exists()
    assert (filled.folder / COPY).read_bytes() == (filled.folder / MANIFEST).read_bytes()


def test_a_distillation_under_way_that_learns_from_who_withdraws_is_deleted(filled):
    state = filled.folder / DISTILLING / "distillation.safetensors"
    state.parent.mkdir()
    for change in (lambda: filled.roll_back("liver", 1), lambda: filled.add("a", model(1), preset=UNET, job="j")):
        state.write_bytes(b"student")
        change()
        assert state.exists()
    filled.remove("liver")
    assert not state.parent.exists()


def test_one_process_writes_at_a_time_and_readers_do_not_wait(filled):
    impatient = ModelStore(filled.folder, patience_s=0.05)
    with FileLock(filled.folder / ".lock"):
        assert len(impatient.sites()) == 2
        with pytest.raises(ConfigError, match=r"another process.*Try again"):
            impatient.roll_back("liver", 1)
    assert impatient.roll_back("liver", 1).version == 1


def test_sites_that_upload_at_the_same_time_are_all_stored(store):
    def upload(number: int) -> Entry:
        return store.add(f"site-{number}", model(number), preset=UNET, job="j")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(upload, range(8)))
    assert {name: store.load(entry)["scale"] for name, entry in store.sites().items()} == {
        f"site-{number}": number for number in range(8)
    }


def test_a_full_disk_changes_nothing(filled, monkeypatch):
    before = filled.sites()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(durable.os, "fsync", full)
        with pytest.raises(NoSpaceLeft, match="the model store"):
            filled.add("liver", model(7), preset=UNET, job="j")
    assert filled.sites() == before
    assert filled.add("liver", model(7), preset=UNET, job="j").version == 3


def test_the_place_is_the_servers_word_and_by_default_the_users_home(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDPARTIAL_HOME", str(tmp_path / "home"))
    assert store_folder(tmp_path, "abdomen") == default_stores() / "abdomen" == tmp_path / "home" / "store" / "abdomen"
    (tmp_path / STORE_FILE).write_text('{"folder": "models"}')
    assert store_folder(tmp_path, "abdomen") == tmp_path.resolve() / "models" / "abdomen"
    with pytest.raises(ConfigError, match="name"):
        store_folder(tmp_path, "../other")


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"folder": ""}', '{"folder": 1}', '{"folder": "x", "y": 1}'])
def test_a_place_that_is_not_said_clearly_is_refused(tmp_path, content):
    (tmp_path / STORE_FILE).write_text(content)
    with pytest.raises(ConfigError, match=STORE_FILE):
        store_folder(tmp_path, "abdomen")
