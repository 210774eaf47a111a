"""MMDS in FLARE's simulator: five stages as one federation that outlives its runs, on tiny hospitals."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tiny_stages
from simulation import Run, simulate, small_job
from tiny_stages import LABELS
from typer.testing import CliRunner

from fedpartial.cli.main import app
from fedpartial.evaluation.record import validate_report
from fedpartial.networks.universal import universal_classes
from fedpartial.presets import get_preset
from fedpartial.server.model_store import ModelStore
from fedpartial.training.model_file import load_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SITES = {
    "mmds_stage1": ("pancreas", "spleen"),
    "mmds_stage2": ("kidney",),
    "mmds_stage3": ("liver",),
    "mmds_stage4": ("amos",),
    "mmds_stage5": ("amos",),
    "mmds_evaluate": tuple(LABELS),
}
"""Sites by job, in the order in which the jobs run."""
STAGES = tuple(SITES)[:5]
NEW_CLASSES = (
    {"pancreas", "pancreas_tumor", "spleen"},
    {"kidney", "kidney_tumor"},
    {"liver", "liver_tumor"},
    {"aorta"},
    {"vena_cava"},
)
STEPS, DISTIL_STEPS, VOLUMES = 6, 6, 2
FEDERATION = "mmds_stages"


@dataclass(frozen=True)
class Finished:
    """A run, and what lay in the federation's home when it had ended: checksum and time of every file by its path."""

    run: Run
    files: dict[str, tuple[str, int]]

    def under(self, *parts: str) -> dict[str, tuple[str, int]]:
        start = "/".join(parts) + "/"
        return {name: found for name, found in self.files.items() if name.startswith(start)}


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory) -> Path:
    return tiny_stages.site_files(tmp_path_factory.mktemp("hospitals"))


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Iterator[Path]:
    """Where the store and the sites' own folders lie from the first stage to the last test."""
    with pytest.MonkeyPatch.context() as environment:
        folder = tmp_path_factory.mktemp("home")
        environment.setenv("FEDPARTIAL_HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def store(home) -> ModelStore:
    return ModelStore(home / "store" / FEDERATION)


@pytest.fixture(scope="module")
def years(tmp_path_factory, hospitals, home) -> dict[str, Finished]:
    """The five stages and the evaluation one after another, by job."""
    return {name: finished(name, tmp_path_factory.mktemp(name), hospitals, home) for name in SITES}


def finished(name: str, folder: Path, hospitals: Path, home: Path) -> Finished:
    run = ran(name, SITES[name], folder, hospitals)
    files = (path for path in sorted(home.rglob("*")) if path.is_file() and not path.name.startswith("."))
    return Finished(run, {str(path.relative_to(home)): _state(path) for path in files})


def _state(path: Path) -> tuple[str, int]:
    return hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns


def ran(name: str, sites: tuple[str, ...], folder: Path, hospitals: Path, threads: int | None = None) -> Run:
    values = {} if name == "mmds_evaluate" else {"local_steps": STEPS, "distil_steps": DISTIL_STEPS}
    files = folder / "workspace" / "local" / "sites"
    files.mkdir(parents=True)
    for site in (*sites, tiny_stages.PUBLIC):
        given = json.loads((hospitals / f"{site}.json").read_text(encoding="utf-8"))
        given |= {key: str(hospitals / given[key]) for key in ("data_root", "cache_dir")}
        (files / f"{site}.json").write_text(json.dumps(given), encoding="utf-8")
    return simulate(small_job(name, folder, sites, **values), folder / "workspace", threads or len(sites))


def known_after(stage: int) -> set[str]:
    return set().union(*NEW_CLASSES[: stage + 1])


def checksums(store: ModelStore) -> dict[str, list[tuple[str, dict[str, int]]]]:
    names = (*store.sites(), "global")
    return {name: [(entry.checksum, entry.teachers) for entry in store.history(name)] for name in names}


# what every stage leaves


def test_the_global_model_knows_the_classes_of_all_stages_so_far(years, store):
    assert [set(entry.classes) for entry in store.globals()] == [known_after(stage) for stage in range(5)]
    assert [entry.job for entry in store.globals()] == list(STAGES)
    for stage, name in enumerate(STAGES):
        weights, _ = load_model(years[name].run.app / "global_model.safetensors")
        assert set(universal_classes(weights)) == known_after(stage)
        assert all(np.isfinite(tensor).all() for tensor in weights.values())
    trunk = [{n: t.shape for n, t in years[name].run.weights.items() if "embeddings." not in n} for name in STAGES]
    assert all(shapes == trunk[0] for shapes in trunk), "a class more changes no weight's shape"


def test_every_model_is_learnt_from_the_versions_in_use(years, store):
    taught = [entry.teachers for entry in store.globals()]
    expected = {"pancreas": 1, "spleen": 1}
    for found, more in zip(taught, ({}, {"kidney": 1}, {"liver": 1}, {"amos": 1}, {"amos": 2}), strict=True):
        expected |= more
        assert found == expected


def test_a_site_with_new_classes_replaces_its_model_and_the_other_models_stay(years, store):
    versions = {site: [set(entry.classes) for entry in store.history(site)] for site in LABELS}
    assert versions["amos"] == [{"liver", "spleen", "aorta"}, set(LABELS["amos"].values())]
    assert {site: len(found) for site, found in versions.items()} == {**dict.fromkeys(LABELS, 1), "amos": 2}
    assert store.sites()["amos"].version == 2


@pytest.mark.parametrize("stage", range(1, 5))
def test_a_site_that_is_not_in_a_stage_is_left_alone(years, store, stage):
    before, now = years[STAGES[stage - 1]], years[STAGES[stage]]
    absent = set(LABELS) - set(SITES[STAGES[stage]])
    assert not [site for site in absent if (now.run.workspace / site).exists()]
    for site in absent:
        assert now.under("sites", FEDERATION, site) == before.under("sites", FEDERATION, site)
        has_joined = any(site in SITES[name] for name in STAGES[:stage])
        assert bool(before.under("sites", FEDERATION, site)) == has_joined, "there is something to leave alone"
    assert {line["site"] for line in store.ledger.read() if line["stage"] == STAGES[stage]} == {
        *SITES[STAGES[stage]],
        "server",
    }


def test_the_ledger_has_one_model_up_and_one_down_for_every_site_of_a_stage(years, store):
    lines = store.ledger.read()
    for name in STAGES:
        here = [line for line in lines if line["stage"] == name]
        messages = sorted((line["site"], line["direction"], line["kind"]) for line in here if "direction" in line)
        assert messages == sorted(
            (site, *what) for site in SITES[name] for what in (("up", "learn"), ("down", "receive"))
        )
        assert all(line["bytes"] > 100_000 for line in here if "direction" in line)
        work = {line["site"]: line["steps"] for line in here if line["record"] == "work"}
        assert work == {**dict.fromkeys(SITES[name], STEPS), "server": DISTIL_STEPS}


def test_a_model_is_asked_once_about_every_public_volume(years, store):
    probabilities = ("store", FEDERATION, "probabilities")
    for name, before in zip(STAGES[1:], STAGES, strict=False):
        earlier, now = years[before].under(*probabilities), years[name].under(*probabilities)
        assert earlier.items() <= now.items(), "files of models that were there are neither made again nor removed"
        assert len({path.split("/")[3] for path in now.keys() - earlier.keys()}) == 1, "one new model"
    keys = {entry.key for site in LABELS for entry in store.history(site)}
    indices = [path for path in years[STAGES[-1]].under(*probabilities) if path.endswith(".json")]
    assert {path.split("/")[3] for path in indices} == keys
    assert len(indices) == VOLUMES * len(keys)


def test_a_site_keeps_its_local_and_the_newest_global_model_it_was_sent(years, home):
    for name in STAGES:
        for site in SITES[name]:
            kept = years[name].under("sites", FEDERATION, site)
            assert {Path(path).name for path in kept} == {"local_model.safetensors", "global_model.safetensors"}
    newest = load_model(years["mmds_stage5"].run.app / "global_model.safetensors")[0]
    for site in LABELS:
        weights, _ = load_model(home / "sites" / FEDERATION / site / "global_model.safetensors")
        assert all(np.array_equal(weights[tensor], newest[tensor]) for tensor in newest), site


def test_the_report_scores_the_global_the_local_and_both_models_of_a_site(years):
    for name, done in years.items():
        report = done.run.report
        validate_report(report)
        assert set(report["sites"]) == set(SITES[name])
        assert {way: set(by_site) for way, by_site in report["adapted_sites"].items()} == {
            "local": set(SITES[name]),
            "personalised": set(SITES[name]),
        }


def test_an_evaluation_trains_and_distils_nothing(years, store):
    before, after = years["mmds_stage5"], years["mmds_evaluate"]
    assert after.under("store", FEDERATION, "models") == before.under("store", FEDERATION, "models")
    lines = [line for line in store.ledger.read() if line["stage"] == "mmds_evaluate"]
    assert {(line["record"], line.get("direction")) for line in lines} == {("message", "down")}
    assert {line["site"] for line in lines} == set(LABELS)


def test_a_hospital_segments_with_the_global_model_and_with_its_own_before_it(years, hospitals, home, tmp_path):
    own = home / "sites" / FEDERATION / "kidney"
    image = hospitals / "kidney_data" / "testing0.nii.gz"
    served = years["mmds_stage5"].run.app / "global_model.safetensors"
    channels = len(get_preset("phantom_mmds").label_space.classes)
    for model, more in (
        (served, []),
        (own / "global_model.safetensors", ["--local", str(own / "local_model.safetensors")]),
    ):
        out = tmp_path / f"labels{len(more)}.nii.gz"
        done = CliRunner().invoke(app, ["predict", str(model), str(image), *more, "--device", "cpu", "-o", str(out)])
        assert done.exit_code == 0, done.output
        labels = np.asarray(nibabel.load(out).dataobj)
        assert labels.shape == nibabel.load(image).shape
        assert labels.max() <= channels


# the same again


def test_a_stage_that_is_run_again_trains_nothing_and_ends_with_the_same_models(
    years, store, hospitals, home, tmp_path
):
    """Of the models in use now, which are those of stage 5."""
    before = checksums(store)
    again = finished("mmds_stage2", tmp_path, hospitals, home)
    work = [line for line in store.ledger.read() if line["record"] == "work" and line["site"] == "kidney"]
    assert [line["steps"] for line in work] == [STEPS]
    assert checksums(store) == before
    done = years["mmds_evaluate"]
    for kept in (("store", FEDERATION, "models"), ("store", FEDERATION, "probabilities")):
        assert again.under(*kept) == done.under(*kept)
    local = f"sites/{FEDERATION}/kidney/local_model.safetensors"
    assert again.files[local] == done.files[local], "not even written again"


def test_a_new_process_for_every_task_gives_the_same_models(years, store, hospitals, tmp_path, monkeypatch):
    """As ``nvflare simulator jobs/mmds_stage1`` runs it: one site at a time, in a process of its own for each task."""
    monkeypatch.setenv("FEDPARTIAL_HOME", str(tmp_path / "home"))
    ran("mmds_stage1", SITES["mmds_stage1"], tmp_path / "run", hospitals, threads=1)
    plain, lasting = checksums(ModelStore(tmp_path / "home" / "store" / FEDERATION)), checksums(store)
    assert plain == {name: lasting[name][:1] for name in ("pancreas", "spleen", "global")}


# two kinds of network


def test_sites_with_another_extractor_give_a_global_model_of_the_same_form(years, hospitals, tmp_path, monkeypatch):
    monkeypatch.setenv("FEDPARTIAL_HOME", str(tmp_path / "home"))
    mixed = ran("mmds_heterogeneous", ("kidney", "liver", "pancreas", "spleen"), tmp_path / "run", hospitals)
    store = ModelStore(tmp_path / "home" / "store" / "mmds_heterogeneous")
    extractors = {site: entry.architecture["arguments"]["extractor"] for site, entry in store.sites().items()}
    assert extractors == {"kidney": "unet", "pancreas": "unet", "liver": "swin_unetr", "spleen": "swin_unetr"}
    alike = years["mmds_stage3"].run.weights
    assert {name: tensor.shape for name, tensor in mixed.weights.items()} == {
        name: tensor.shape for name, tensor in alike.items()
    }
    validate_report(mixed.report)
