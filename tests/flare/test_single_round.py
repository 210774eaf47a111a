"""Stages of MMDS over FLARE's own workflows: what travels, what is kept where, who is never contacted."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, replace

import nibabel
import numpy as np
import pytest
from nvflare.apis.dxo import from_shareable
from nvflare.fuel.utils import fobs
from one_stage import Federation, StageServer, nothing_is_computed
from safetensors.numpy import save_file
from tiny_hospital import write_nifti

from fedpartial.distillation.student import Student
from fedpartial.errors import ConfigError
from fedpartial.evaluation.record import validate_report
from fedpartial.flare.plan import RunPlan
from fedpartial.flare.site_executor import LEARN, RECEIVE
from fedpartial.flare.weights import METRICS, payload_bytes
from fedpartial.methods.mmds import Mmds
from fedpartial.networks.universal import EMBEDDINGS, universal_classes
from fedpartial.training.local_trainer import LocalTrainer
from fedpartial.training.model_file import load_model
from fedpartial.training.site_session import SiteSession
from one_round import LENGTH, TINY_UNIVERSAL, counted_steps, files_in, home, same_tensors, stage_sites, universal  # noqa: F401

FIRST = {"liver", "liver_tumor", "spleen"}


@pytest.fixture(scope="module")
def sites(tmp_path_factory):
    return stage_sites(tmp_path_factory.mktemp("stage_sites"))


@dataclass(frozen=True, kw_only=True)
class Stages:
    """Two stages, and how things stood between them."""

    federation: Federation
    first: StageServer
    second: StageServer
    kept: dict[str, dict[str, bytes]]
    maps: dict[str, int]
    after_first: dict[str, np.ndarray]
    lines: int

    def stage(self, number: int) -> list[dict]:
        """The lines of the ledger about a stage."""
        lines = self.federation.store.ledger.read()
        return lines[: self.lines] if number == 1 else lines[self.lines :]


@pytest.fixture(scope="module")
def stages(universal, sites, tmp_path_factory) -> Stages:  # noqa: F811
    """Liver and spleen, then amos by itself, in a new process for every task."""
    federation = Federation(sites, tmp_path_factory.mktemp("stages"))
    first = federation.stage("liver", "spleen", name="stage1").run()
    kept = {name: files_in(federation.own(name).folder) for name in ("liver", "spleen")}
    between = {"maps": stamps(federation), "after_first": federation.global_model()}
    lines = len(federation.store.ledger.read())
    second = federation.stage("amos", name="stage2", lasting=False).run()
    return Stages(federation=federation, first=first, second=second, kept=kept, lines=lines, **between)


def stamps(federation: Federation) -> dict[str, int]:
    """When every cached probability was written."""
    folder = federation.store.probabilities
    return {f"{p.parent.name}/{p.name}": p.stat().st_mtime_ns for p in folder.rglob("*.*") if p.suffix != ".lock"}


def test_every_site_sends_its_whole_model_once_and_gets_the_global_one_once(stages):
    for server, sent in ((stages.first, stages.after_first), (stages.second, stages.federation.global_model())):
        for name, hospital in server.link.hospitals.items():
            learn, receive = hospital.messages
            assert (learn.task, receive.task) == (LEARN, RECEIVE)
            own = stages.federation.store.load(stages.federation.store.sites()[name])
            down, up = learn.tensors()
            assert (down, sorted(up)) == ([], sorted(own))
            down, up = receive.tensors()
            assert (sorted(down), up) == (sorted(sent), [])


def test_the_ledger_counts_one_message_with_tensors_in_each_direction(stages):
    for number, names in ((1, {"liver", "spleen"}), (2, {"amos"})):
        messages = [line for line in stages.stage(number) if line["record"] == "message"]
        assert Counter((m["site"], m["direction"]) for m in messages) == {
            (n, d): 1 for n in names for d in ("up", "down")
        }
        for m in messages:
            own = stages.federation.store.load(stages.federation.store.sites()[m["site"]])
            down = stages.after_first if number == 1 else stages.federation.global_model()
            assert m["bytes"] == payload_bytes(own if m["direction"] == "up" else down)
        work = {
            line["site"]: (line["steps"], line["epochs"]) for line in stages.stage(number) if line["record"] == "work"
        }
        assert work == {**dict.fromkeys(names, (4, 4.0)), "server": (3, 3.0)}


def test_the_store_has_every_local_model_as_the_site_has_it(stages):
    federation = stages.federation
    entries = federation.store.sites()
    assert {name: (e.version, e.job) for name, e in entries.items()} == {
        "amos": (1, "stage2"),
        "liver": (1, "stage1"),
        "spleen": (1, "stage1"),
    }
    assert entries["amos"].classes == ("kidney", "aorta")
    for name, entry in entries.items():
        weights, info = load_model(federation.own(name).local)
        assert same_tensors(weights, federation.store.load(entry))
        assert info.classes == ("background", *entry.classes)
        assert not list((federation.own(name).folder / "training").glob("*/*"))


def test_the_global_model_has_the_union_of_all_stored_classes(stages):
    one, two = stages.federation.store.globals()
    assert set(universal_classes(stages.after_first)) == set(one.classes) == FIRST
    assert one.teachers == {"liver": 1, "spleen": 1}
    assert set(two.classes) == {*FIRST, "kidney", "aorta"}
    assert two.teachers == {"amos": 1, "liver": 1, "spleen": 1}
    assert same_tensors(stages.second.written_model(), stages.federation.global_model())
    assert same_tensors(stages.first.written_model(), stages.after_first)


def test_each_site_keeps_the_global_model_of_its_own_stage(stages):
    for name, model in {"liver": stages.after_first, "amos": stages.federation.global_model()}.items():
        assert same_tensors(load_model(stages.federation.own(name).global_model)[0], model)


def test_sites_of_an_earlier_stage_are_never_contacted(stages):
    assert stages.second.link.asked == [(LEARN, "amos"), (RECEIVE, "amos")]
    assert {line["site"] for line in stages.stage(2)} == {"amos", "server"}
    assert {line["stage"] for line in stages.stage(2)} == {"stage2"}
    assert {name: files_in(stages.federation.own(name).folder) for name in stages.kept} == stages.kept


def test_models_of_an_earlier_stage_look_at_no_image_again(stages):
    now = stamps(stages.federation)
    assert stages.maps.items() <= now.items()
    assert {name.split("-")[0] for name in now.keys() - stages.maps.keys()} == {"amos"}


def test_the_report_has_the_global_the_local_and_the_personalised_model(stages):
    for server, site, classes in (
        (stages.first, "liver", {"liver", "liver_tumor"}),
        (stages.second, "amos", {"kidney", "aorta"}),
    ):
        report = server.report()
        validate_report(report)
        assert set(report["sites"][site]) == classes
        assert {name: set(scores[site]) for name, scores in report["cross_site"].items()} == dict.fromkeys(
            ("final", "adapted local", "adapted personalised"), classes
        )
        assert {"distillation", "distribution and scores"} <= set(report["phases"])
        (note,) = [n for n in report["notes"] if n.startswith("Teachers by class and number of public volumes: ")]
        last = sorted(classes)[-1]
        assert f"{last}: {site} " in note or f"{last}: nobody" in note, "so short a training may see nothing"


# Again.


def test_a_stage_that_is_run_again_trains_no_site_infers_nothing_and_changes_nothing(stages, tmp_path, monkeypatch):
    federation = stages.federation.copied(tmp_path)
    before, model = federation.store.manifest(), federation.global_model()
    nothing_is_computed(monkeypatch, distilled=True)
    server = federation.stage("amos", name="again").run()
    assert [line["version"] for line in server.told("model")] == [1]
    assert federation.store.manifest() == before
    assert same_tensors(server.written_model(), model)
    assert set(server.report()["cross_site"]) == {"final", "adapted local", "adapted personalised"}


def test_a_stage_that_is_run_again_takes_no_step_at_the_server(stages, tmp_path):
    federation = stages.federation.copied(tmp_path)
    federation.stage("amos", name="again").run(evaluate=False)
    stage = federation.store.ledger.summary()[-1]
    assert (stage.stage, stage.alone.sites["amos"].steps, stage.alone.server.steps) == ("again", 0, 0)


def shorter(sites, root):
    """The hospital amos with one training case less."""
    amos = stage_sites(root)["amos"]
    listed = json.loads(amos.datalist.read_text())
    amos.datalist.write_text(json.dumps({**listed, "training": listed["training"][:1]}))
    return {"amos": amos}


def drawn_anew(sites, root):
    """The hospital amos whose first label file is another one."""
    amos = stage_sites(root)["amos"]
    path = amos.data_root / json.loads(amos.datalist.read_text())["training"][0]["label"]
    write_nifti(path, np.roll(np.asarray(nibabel.load(path).dataobj), 2, axis=0))
    return {"amos": amos}


def renamed(sites, root):
    """The hospital amos, which calls the second structure by another name."""
    return {"amos": replace(sites["amos"], labels={1: "kidney", 2: "vena_cava"})}


CHANGES = {
    "seed": ({"seed": 4}, None),
    "steps": ({"local_steps": 5}, None),
    "method": ({"method": Mmds(dice_weight=2.0)}, None),
    "asked classes": ({"site_classes": {"amos": ["aorta"]}}, None),
    "classes": ({}, renamed),
    "cases": ({}, shorter),
    "a label": ({}, drawn_anew),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_decides_a_model_trains_it_anew_and_replaces_its_entry(stages, tmp_path, name):
    plan, change = CHANGES[name]
    changed = change(stages.federation.sites, tmp_path / "data") if change else {}
    federation = stages.federation.copied(tmp_path, **changed)
    server = federation.stage("amos", name="changed", **plan).run(distil_steps=0, evaluate=False)
    assert [line["steps"] for line in server.told("model")] == [plan.get("local_steps", 4)]
    assert federation.versions() == {"amos": 2, "liver": 1, "spleen": 1}
    old, new = map(federation.store.load, federation.store.history("amos"))
    assert not same_tensors(old, new)
    assert same_tensors(new, load_model(federation.own("amos").local)[0])
    assert len(federation.store.globals()) == 2


def test_a_stage_may_ask_for_some_classes_and_a_later_one_for_more(stages, tmp_path):
    federation = stages.federation.copied(tmp_path)
    some = federation.stage("amos", name="some", site_classes={"amos": ["kidney"]}).run(distil_steps=0)
    assert federation.store.sites()["amos"].classes == ("kidney",)
    learn, receive = (from_shareable(fobs.loads(m.answered)) for m in some.link.hospitals["amos"].messages)
    assert set(learn.get_meta_prop(METRICS)["val_dice"]) == set(receive.data["validation"]["final"]) == {"kidney"}
    scores = {name: set(of["amos"]) for name, of in some.report()["cross_site"].items()}
    assert scores.pop("adapted local") == {"kidney"}
    both = {"kidney", "aorta"}  # stage 2 has both
    assert scores == {"final": both, "adapted personalised": both}
    federation.stage("amos", name="all").run()
    assert federation.store.sites()["amos"].classes == ("kidney", "aorta")
    assert [e.classes for e in federation.store.history("amos")][:2] == [("kidney", "aorta"), ("kidney",)]
    assert set(federation.store.latest_global().classes) == {*FIRST, "kidney", "aorta"}


# Stopped.

PLACES = {
    "local training": (LocalTrainer, "_step", 3),
    "distillation": (Student, "_step", 2),
    "distribution": (SiteSession, "score_network", 1),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_stage_that_is_aborted_goes_on_in_the_next_job(stages, sites, tmp_path, monkeypatch, place):
    """The next job has a new process for every task; it ends in the model of a job with lasting ones and no pause."""
    monkeypatch.setattr("fedpartial.training.alone.LONGEST_PORTION", 2)
    federation = Federation(sites, tmp_path)
    server = federation.stage("liver", "spleen", name="aborted")
    with monkeypatch.context() as patch:
        aborts(patch, server, *PLACES[place])
        server.run()
    assert server.engine.signal.triggered
    assert not server.panics
    assert not server.told("report")
    assert len(federation.store.globals()) == (place == "distribution")
    steps = counted_steps(monkeypatch)
    again = federation.stage("liver", "spleen", name="stage1", lasting=False).run()
    assert not again.panics
    assert steps == ([2, 3, 0, 1, 2, 3] if place == "local training" else [])
    assert same_tensors(federation.global_model(), stages.after_first)
    assert set(again.report()["sites"]) == {"liver", "spleen"}


def aborts(patch, server: StageServer, owner, name: str, calls: int) -> None:
    """The job is aborted in the middle of the call of that number."""
    work, left = getattr(owner, name), [calls]

    def then_abort(*args, **kwargs):
        result = work(*args, **kwargs)
        left[0] -= 1
        if not left[0]:
            server.engine.signal.trigger("aborted by a test")
        return result

    patch.setattr(owner, name, then_abort)


def test_the_ledger_has_every_step_of_a_model_that_was_interrupted(sites, tmp_path, monkeypatch):
    monkeypatch.setattr("fedpartial.training.alone.LONGEST_PORTION", 2)
    federation = Federation(sites, tmp_path)
    server = federation.stage("liver", name="aborted")
    with monkeypatch.context() as patch:
        aborts(patch, server, LocalTrainer, "_step", 3)
        server.run()
    federation.stage("liver", name="stage1").run(evaluate=False)
    assert federation.store.ledger.summary()[-1].cumulative.sites["liver"].steps == 4


# Other forms.


def test_a_stage_of_no_federation_ends_before_any_site_is_asked(sites, tmp_path):
    server = Federation(sites, tmp_path).stage("liver", federation="").run()
    (panic,) = server.panics
    assert "federation" in panic
    assert not server.link.asked


def test_a_federation_has_one_round(tmp_path):
    with pytest.raises(ConfigError, match="job: num_rounds: got 2; expected 1: a site of a federation"):
        RunPlan(job="a", preset="tiny_universal", num_rounds=2, local_steps=1, seed=0, federation="fed")


EVALUATION = {"learn": False, "distil_steps": 0}


def test_an_evaluation_before_any_stage_is_one_clear_sentence(sites, tmp_path):
    server = Federation(sites, tmp_path).stage("liver", name="evaluate").run(**EVALUATION)
    assert server.panics == [
        "model store: global: got 'none'; expected a global model. Run a stage first, which distils one."
    ]
    assert not server.link.asked


def test_an_evaluation_gives_every_site_the_newest_global_model(stages, tmp_path, monkeypatch):
    federation = stages.federation.copied(tmp_path)
    before, lines = federation.store.manifest(), len(federation.store.ledger.read())
    nothing_is_computed(monkeypatch)
    server = federation.stage("liver", "spleen", "amos", name="evaluate").run(**EVALUATION)
    assert not server.panics
    assert federation.store.manifest() == before
    for name in federation.sites:
        assert same_tensors(load_model(federation.own(name).global_model)[0], federation.global_model())
    added = federation.store.ledger.read()[lines:]
    assert sorted((m["record"], m["site"], m["direction"]) for m in added) == [
        ("message", name, "down") for name in sorted(federation.sites)
    ]
    scores = server.report()["cross_site"]
    assert set(scores) == {"final", "adapted local", "adapted personalised"}
    assert all(set(by_site) == set(federation.sites) for by_site in scores.values())


def test_a_site_that_never_trained_gets_and_scores_the_global_model_alone(stages, tmp_path):
    federation = Federation(stages.federation.sites, tmp_path)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "store").symlink_to(stages.federation.home / "store")
    server = federation.stage("amos", name="evaluate").run(**EVALUATION)
    assert list(server.report()["cross_site"]) == ["final"]
    assert not federation.own("amos").local.exists()


def test_sites_with_different_networks_make_the_same_global_network(stages, sites, tmp_path):
    federation = Federation(sites, tmp_path)
    plan = {"site_presets": {"spleen": "tiny_deeper"}}
    server = federation.stage("liver", "spleen", name="mixed", **plan).run()
    assert not server.panics
    assert [e.preset for e in federation.store.sites().values()] == ["tiny_universal", "tiny_deeper"]
    assert shapes(federation.global_model()) == shapes(stages.after_first)
    assert shapes(federation.store.load(federation.store.sites()["spleen"])) != shapes(stages.after_first)


@pytest.mark.slow
def test_a_site_with_a_swin_transformer_makes_the_same_global_network(stages, sites, tmp_path):
    federation = Federation(sites, tmp_path)
    plan = {"preset": "tiny_beside_swin", "local_steps": 1, "site_presets": {"spleen": "tiny_swin"}}
    server = federation.stage("liver", "spleen", name="mixed", **plan).run(distil_steps=1)
    assert not server.panics
    assert shapes(federation.global_model()) == shapes(stages.after_first)


def shapes(state) -> dict:
    return {name: np.shape(value) for name, value in state.items()}


def vectors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=LENGTH).astype(np.float32) for name in TINY_UNIVERSAL.label_space.classes}


def test_vectors_in_the_jobs_app_are_those_of_every_network(sites, tmp_path):
    federation = Federation(sites, tmp_path)
    server = federation.stage("liver", "spleen", name="clip")
    save_file(vectors(), server.app / "clip.safetensors")
    server.run(embeddings="clip.safetensors", evaluate=False)
    models = [federation.global_model(), *(federation.store.load(e) for e in federation.store.sites().values())]
    models += [load_model(federation.own(name).local)[0] for name in ("liver", "spleen")]
    for model in models:
        for name in universal_classes(model):
            given = vectors()[name] / np.linalg.norm(vectors()[name])
            assert np.allclose(model[f"{EMBEDDINGS}{name}"], given, atol=1e-6)
    down, _ = server.link.hospitals["liver"].messages[0].tensors()
    assert sorted(down) == sorted(f"{EMBEDDINGS}{name}" for name in vectors())


def test_a_file_of_vectors_outside_of_the_job_is_not_read(sites, tmp_path):
    server = Federation(sites, tmp_path).stage("liver", name="clip")
    save_file(vectors(), server.root / "clip.safetensors")
    server.run(embeddings="../clip.safetensors")
    (panic,) = server.panics
    assert "clip.safetensors: file: got 'No such file" in panic
    assert str(tmp_path) not in panic
    assert not server.link.asked
