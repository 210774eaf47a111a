"""A federation of years, on real processes: sites are off between stages, a hospital joins with a kit made later.

The store lies where the server's kit says; what the sites keep, where their site files say.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_stages
from fault_work import events, read_report, results
from real_federation import SERVER, Federation

from fedpartial.cli.bundle import Options, write_bundle
from fedpartial.networks.universal import universal_classes
from fedpartial.server.model_store import ModelStore
from fedpartial.training.model_file import load_model

pytestmark = [pytest.mark.poc, pytest.mark.timeout(900)]

SITES = ("pancreas", "spleen", "kidney", "liver")
FEDERATION = "mmds_stages"
FIRST = {"pancreas": {"pancreas", "pancreas_tumor"}, "spleen": {"spleen"}}
STEPS = 6


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Site files that name a folder for the site's own models."""
    folder = tiny_stages.site_files(tmp_path_factory.mktemp("hospitals"))
    for site in SITES:
        file = folder / f"{site}.json"
        given = json.loads(file.read_text(encoding="utf-8")) | {"model_dir": str(folder / f"{site}_models")}
        file.write_text(json.dumps(given), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory, hospitals: Path) -> Iterator[Federation]:
    """Pancreas and spleen run under the reviewed policy, the others have not joined; nobody uses the default home."""
    folder = tmp_path_factory.mktemp("years")
    running = Federation(
        folder / "federation",
        tuple(FIRST),
        policy="reviewed",
        site_files={site: hospitals / f"{site}.json" for site in SITES},
        variables={"FEDPARTIAL_HOME": str(folder / "default")},
    )
    with running:
        yield running
    assert not (folder / "default").exists()


@pytest.fixture(scope="module")
def store(consortium: Federation) -> ModelStore:
    named = json.loads((consortium.kit(SERVER) / "local" / "store.json").read_text(encoding="utf-8"))
    return ModelStore(consortium.kit(SERVER) / "local" / named["folder"] / FEDERATION)


def stage(out: Path, number: int, **options) -> Path:
    """What ``fedpartial bundle mmds_stage1 --local-steps 6 --set distil_steps=6`` writes, with these options more."""
    values = {"distil_steps": STEPS, **options.pop("values", {})}
    given = {"rounds": None, "local_steps": STEPS, "sites": None, **options}
    sites = given.pop("sites")
    write_bundle(Options(job=f"mmds_stage{number}", out=out, values=values, sites=sites, **given))
    return out


def completed(federation: Federation, job: str) -> Path:
    """The server's part of a job that has ended well."""
    assert federation.wait(job) == "FINISHED:COMPLETED", federation.server_log()[-3000:]
    return results(federation, job)


def files(*folders: Path) -> dict[Path, tuple[str, int]]:
    """Checksum and time of every file."""
    found = [
        path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".lock"
    ]
    return {path: (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns) for path in found}


def models(hospitals: Path, site: str) -> Path:
    return hospitals / f"{site}_models" / FEDERATION / site


def lines(store: ModelStore, job: str, **values: object) -> list[dict]:
    return [line for line in store.ledger.read() if line["stage"] == job and values.items() <= line.items()]


def write_public(consortium: Federation, hospitals: Path) -> None:
    """The server's images without labels, as its operator names them."""
    file = consortium.kit(SERVER) / "local" / "sites" / "public.json"
    file.parent.mkdir()
    file.write_text(json.dumps({"data_root": str(hospitals / "public_data")}), encoding="utf-8")


def test_a_server_without_public_images_keeps_the_models_and_the_next_job_trains_nothing(
    consortium, store, hospitals, tmp_path
):
    first = consortium.submit(stage(tmp_path / "without", 1))
    assert consortium.wait(first) == "FINISHED:EXECUTION_EXCEPTION"
    (said,) = [event["reason"] for event in events(results(consortium, first), "panic")]
    assert "expected the server's own images" in said
    assert {site: set(entry.classes) for site, entry in store.sites().items()} == FIRST
    assert store.latest_global() is None
    write_public(consortium, hospitals)
    second = consortium.submit(stage(tmp_path / "with", 1))
    done = completed(consortium, second)
    steps = {site: [line["steps"] for line in lines(store, "mmds_stage1", record="work", site=site)] for site in FIRST}
    assert steps == {site: [STEPS] for site in FIRST}
    assert {site: entry.version for site, entry in store.sites().items()} == dict.fromkeys(FIRST, 1)
    assert store.latest_global().teachers == dict.fromkeys(FIRST, 1)
    found = {path.name for path in done.rglob("*.safetensors")}
    assert found == {"global_model.safetensors", "best_global_model.safetensors"}, "no site's model leaves the store"


def test_stage_2_needs_nobody_of_stage_1_and_its_hospital_joins_with_a_kit_made_later(
    consortium, store, hospitals, tmp_path
):
    assert store.latest_global().teachers == dict.fromkeys(FIRST, 1)
    weights = store.load(store.latest_global())
    consortium.stop(*FIRST)
    assert not any(consortium.running(site) for site in FIRST)
    before = files(*(hospitals / f"{site}_models" for site in FIRST))
    assert {path.name for path in before} == {"local_model.safetensors", "global_model.safetensors"}

    consortium.join("kidney")
    consortium.start("kidney")
    second = consortium.submit(stage(tmp_path / "second", 2))
    consortium.wait_for_event(second, "model", site="kidney")
    assert not any(consortium.running(site) for site in FIRST)
    after = completed(consortium, second)
    assert not any(consortium.running(site) for site in FIRST)
    assert files(*(hospitals / f"{site}_models" for site in FIRST)) == before
    assert not any(second in consortium.site_log(site) for site in FIRST)

    assert store.latest_global().teachers == {"kidney": 1, "pancreas": 1, "spleen": 1}
    assert {line["site"] for line in lines(store, "mmds_stage2")} == {"kidney", "server"}
    sent = [(line["site"], line["direction"]) for line in lines(store, "mmds_stage2", record="message")]
    assert sent == [("kidney", "up"), ("kidney", "down")]
    more, _ = load_model(after / "global_model.safetensors")
    assert set(universal_classes(more)) == {"kidney", "kidney_tumor", "spleen", *FIRST["pancreas"]}
    assert set(more) - set(weights) == {"embeddings.kidney", "embeddings.kidney_tumor"}
    kept, _ = load_model(models(hospitals, "kidney") / "global_model.safetensors")
    assert all(kept[name].tobytes() == more[name].tobytes() for name in more)


def test_a_model_that_comes_late_is_kept_for_the_next_stage(consortium, store, hospitals, tmp_path):
    """Kidney has its model and sends it at once; liver begins with its cases while the server distils."""
    consortium.join("liver")
    consortium.start("liver")
    sites = ("kidney", "liver")
    values = {"enough": 1, "distil_steps": 150}
    job = consortium.submit(stage(tmp_path / "late", 3, sites=sites, min_sites=1, values=values))
    done = completed(consortium, job)
    assert not lines(store, "mmds_stage3", record="work", site="kidney")
    assert store.sites()["liver"].version == 1
    assert "liver" not in store.latest_global().teachers
    (note,) = [note for note in read_report(done)["notes"] if "liver gave no model" in note]
    assert note == "liver gave no model to this stage: it has not finished"
    next_stage = consortium.submit(stage(tmp_path / "next", 3, sites=("liver",)))
    completed(consortium, next_stage)
    assert store.latest_global().teachers == dict.fromkeys(("kidney", "liver", "pancreas", "spleen"), 1)
    assert [line["steps"] for line in lines(store, "mmds_stage3", record="work", site="liver")] == [STEPS]


def test_a_killed_site_goes_on_with_its_training_where_it_was(consortium, store, hospitals, tmp_path):
    """Two portions of 30 steps; the process is killed in the second one."""
    job = consortium.submit(stage(tmp_path / "killed", 3, sites=("liver",), local_steps=60))
    training = models(hospitals, "liver") / "training"
    consortium.wait_for(lambda: list(training.glob("*/*")), 120, "a finished portion")
    (killed,) = consortium.kill("liver", "job")
    consortium.wait_for(lambda: set(consortium.job_processes("liver")) - {killed}, 30, "a new process of liver")
    completed(consortium, job)
    work = lines(store, "mmds_stage3", record="work", site="liver")
    assert work[-1]["steps"] == 60, "the work before the kill is reported too"
    assert store.sites()["liver"].version == 2
    assert not training.exists()
