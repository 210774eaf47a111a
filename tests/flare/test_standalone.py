"""Standalone training over FLARE's own workflows: every site keeps its own model, and the report says so."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from in_process import Server
from test_resume import FIRST_JOB, continue_from, interrupt, panics

from federation import tiny_plan
from fedpartial.evaluation.record import validate_report
from fedpartial.flare.learner import LOCAL_MODEL
from fedpartial.flare.persistor import BEST_MODEL, GLOBAL_MODEL
from fedpartial.flare.standalone import NoAggregation
from fedpartial.methods.fedavg import FedAvg
from fedpartial.networks.build import build_network
from fedpartial.networks.canonical import canonical_state
from fedpartial.server.run_state import RUN_STATE, load_run_state
from fedpartial.training.checkpoint import read_tensors
from fedpartial.training.model_file import load_model
from fedpartial.training.site_session import SiteSession

METHOD = FedAvg(unlabelled="background", absent_class="skip")
OWN = {"liver": {"liver", "liver_tumor"}, "spleen": {"spleen"}}


@pytest.fixture
def alone(make_server) -> Callable[..., Server]:
    """Builds a server that aggregates nothing, with two sites that start from their own weights."""

    def make(folder: str = "run", **options) -> Server:
        return make_server(NoAggregation(), METHOD, folder=folder, start_from="local", **options)

    return make


def local_models(server: Server) -> dict[str, dict[str, np.ndarray]]:
    """What every site has trained, from its own disk."""
    return {
        name: {n: t.numpy() for n, t in read_tensors(hospital.app / LOCAL_MODEL)[0].items()}
        for name, hospital in server.link.hospitals.items()
    }


def assert_equal(a: dict, b: dict) -> None:
    assert set(a) == set(b)
    assert not [name for name in a if not np.array_equal(a[name], b[name])]


def initial() -> dict[str, torch.Tensor]:
    return canonical_state(build_network(tiny_plan().config, seed=tiny_plan().seed))


@pytest.fixture
def by_hand(tiny, tiny_sites, tmp_path) -> Callable[[str], tuple[dict, dict]]:
    """A site's model after two rounds without any federation, and its validation Dice after the first one."""

    def train(name: str) -> tuple[dict, dict]:
        plan = tiny_plan()
        session = SiteSession(site=tiny_sites[name], plan=plan, method=METHOD, state_dir=tmp_path / "by hand" / name)
        weights = initial()
        session.train(weights, 0, lambda: False)
        first = session.trainer.local_weights()
        scores = session.validation_scores(first)
        session.train(first, 1, lambda: False)
        return {n: t.numpy() for n, t in session.trainer.local_weights().items()}, scores

    return train


@pytest.mark.parametrize("lasting", [True, False], ids=["lasting processes", "a new process per task"])
def test_every_site_goes_on_from_its_own_model(alone, by_hand, lasting):
    server = alone(lasting=lasting)
    server.run(evaluate=False)
    found = local_models(server)
    curve = server.engine.get_component("recorder").history.report_rounds()
    for name in OWN:
        expected, scores = by_hand(name)
        assert_equal(found[name], expected)
        dice = np.mean([np.mean(values) for values in scores.values()])
        assert curve[0]["sites"][name]["val_dice"] == pytest.approx(dice), (
            "of the local model, not of the first weights"
        )
    assert not panics(server)


@pytest.fixture
def finished(alone):
    server = alone(lasting=False)
    server.run()
    return server


def test_a_whole_run_leaves_one_model_per_site_and_a_report(finished):
    app, trained = finished.app, local_models(finished)
    assert not (app / GLOBAL_MODEL).exists()
    assert not (app / BEST_MODEL).exists()
    assert {path.name for path in app.glob("*.safetensors")} == {
        RUN_STATE,
        *(f"local_{name}.safetensors" for name in OWN),
    }
    for name in OWN:
        kept, info = load_model(app / f"local_{name}.safetensors")
        assert info.round_number == 2
        assert set(kept) == set(trained[name])
        for tensor, value in kept.items():
            np.testing.assert_allclose(value, trained[name][tensor], rtol=0, atol=1e-6, err_msg=tensor)
    assert_equal(load_run_state(app / RUN_STATE).weights, {n: t.numpy() for n, t in initial().items()})

    report = json.loads((app / "report.json").read_text(encoding="utf-8"))
    validate_report(report)
    assert report["selected_model"] is None
    assert any("no global model" in note for note in report["notes"])
    assert set(report["cross_site"]) == {"local liver", "local spleen"}
    for name, classes in OWN.items():
        assert set(report["sites"][name]) == classes
        own = report["cross_site"][f"local {name}"][name]
        assert {c: entry["dice"]["mean"] for c, entry in report["sites"][name].items()} == own
        assert len(report["cases"][name]) == 1
    assert all(r["val_dice"] is not None for r in report["rounds"])


def test_the_last_round_is_validated_with_every_sites_own_model(without_figures, finished):
    validation = finished.engine.workflows[-1].report.validation
    assert {model: set(by_site) for model, by_site in validation.items()} == {f"local {name}": {name} for name in OWN}
    report = json.loads((finished.app / "report.json").read_text(encoding="utf-8"))
    dice = [np.mean(list(validation[f"local {name}"][name].values())) for name in OWN]
    found = report["rounds"][-1]["sites"]
    assert [found[name]["val_dice"] for name in OWN] == pytest.approx(dice)


def external_set(server: Server, tmp_path: Path) -> None:
    """The liver hospital's test case as the server's external set, its lesion called a spleen: a class of each site."""
    liver = server.link.hospitals["liver"]
    data = json.loads((liver.root / "local/sites/liver.json").read_text(encoding="utf-8"))
    labels = {"1": "liver", "2": "spleen"}
    folder = server.root / "local/sites"
    folder.mkdir(parents=True, exist_ok=True)
    datalist = json.loads((Path(data["data_root"]) / "datalist.json").read_text(encoding="utf-8"))
    shutil.copytree(data["data_root"], tmp_path / "external", ignore=shutil.ignore_patterns("cache"))
    (tmp_path / "external/datalist.json").write_text(json.dumps({"training": [], "testing": datalist["testing"]}))
    (folder / "external.json").write_text(
        json.dumps({**data, "labels": labels, "data_root": str(tmp_path / "external")}), encoding="utf-8"
    )


def test_the_external_set_is_scored_with_the_model_of_the_site_of_each_class(alone, without_figures, tmp_path):
    server = alone(num_rounds=1)
    external_set(server, tmp_path)
    server.run()
    report = json.loads((server.app / "report.json").read_text(encoding="utf-8"))
    assert set(report["external"]) == {"liver", "spleen"}
    assert set(report["external_organs"]) == {"liver", "spleen"}
    files = {
        str(path.relative_to(server.app / "predictions")) for path in (server.app / "predictions").rglob("*.nii.gz")
    }
    assert files == {f"{folder}external_01.nii.gz" for folder in ("", "local_liver/", "local_spleen/")}


def test_a_continued_run_gives_the_same(alone, without_figures):
    whole = alone(num_rounds=2)
    whole.run()
    first = alone(folder="first", num_rounds=2)
    interrupt(first, 1)
    second = alone(folder="second", num_rounds=2, resumed_jobs=[FIRST_JOB])
    continue_from(first, second)
    second.run()
    assert not panics(second)
    assert not (second.app / GLOBAL_MODEL).exists()
    for name in OWN:
        assert_equal(local_models(second)[name], local_models(whole)[name])
    reports = [json.loads((server.app / "report.json").read_text(encoding="utf-8")) for server in (whole, second)]
    assert reports[0]["sites"] == reports[1]["sites"]
    assert [r["val_dice"] for r in reports[0]["rounds"]] == [r["val_dice"] for r in reports[1]["rounds"]]
    assert not [line for line in second.progress() if line["event"] == "optimizer"]


def test_a_run_that_only_lacks_its_evaluation_says_that_it_has_no_models(alone):
    """The server gets the sites' models with the last updates only; the sites keep theirs."""
    first = alone(folder="first", num_rounds=1)
    first.run(evaluate=False)
    second = alone(folder="second", num_rounds=1, resumed_jobs=[FIRST_JOB])
    continue_from(first, second)
    second.run()
    (reason,) = panics(second)
    assert LOCAL_MODEL in reason
    assert not (second.app / "report.json").exists()
    assert all((hospital.app / LOCAL_MODEL).exists() for hospital in first.link.hospitals.values())
