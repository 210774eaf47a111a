"""``--start-from``: a trained model becomes a file of the job's server app, without anybody's heads."""

from __future__ import annotations

import numpy as np
import pytest

from fedpartial.cli.job_check import check_job
from fedpartial.cli.job_folder import find_job, read_job, write_job
from fedpartial.cli.start_model import START_MODEL, with_start_model
from fedpartial.errors import ConfigError
from fedpartial.networks.assembled import assemble
from fedpartial.networks.build import build_network
from fedpartial.networks.canonical import canonical_state
from fedpartial.networks.split import is_head, is_norm
from fedpartial.training.model_file import load_model, model_info, save_model


def started(name: str, folder, model):
    """The job ``name`` as written with that start, and the plan it was checked with."""
    job = write_job(read_job(find_job(name)), folder / name)
    plan, faults = check_job(job, folder / f"build-{name}")
    assert faults == []
    return with_start_model(job, plan, model), plan


@pytest.fixture(scope="module")
def assembled(tmp_path_factory):
    """A model with one head, as a run of segviz_fedavg leaves it."""
    folder = tmp_path_factory.mktemp("earlier")
    _, plan = started("segviz_fedavg", folder, None)
    state = canonical_state(build_network(plan.config, seed=7, head_classes=("liver",)))
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    private = {"liver": {name: value for name, value in arrays.items() if is_head(name)}}
    shared = {name: value for name, value in arrays.items() if not is_head(name)}
    save_model(folder / "model.safetensors", assemble(shared, private, {"liver": 12}), model_info(plan, 8))
    return folder / "model.safetensors"


@pytest.mark.parametrize("name", ["segviz_fedavg", "segviz_fedbn_ft"])
def test_a_new_federation_starts_from_the_shared_part_and_gets_no_head(assembled, tmp_path, name):
    job, _ = started(name, tmp_path, assembled)
    weights, info = load_model(job.folder / "app" / START_MODEL)
    earlier, _ = load_model(assembled)
    assert not any("head" in tensor for tensor in weights)
    assert any(map(is_norm, weights)) == (name == "segviz_fedavg")
    assert all(np.array_equal(weights[tensor], earlier[tensor]) for tensor in weights)
    assert info.round_number == 8
    persistor = next(c for c in read_job(job.folder).server["components"] if c["id"] == "persistor")
    assert persistor["args"] == {"start_from": START_MODEL}
    assert check_job(job, tmp_path / "again")[1] == []


def test_without_the_option_the_job_stays_as_it_is(tmp_path):
    job, _ = started("segviz_fedavg", tmp_path, None)
    assert not (job.folder / "app" / START_MODEL).exists()
    assert "start_from" not in job.server_config.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["fedavg", "segviz_conventional"])
def test_a_model_of_another_network_is_refused_and_nothing_is_written(assembled, tmp_path, name):
    with pytest.raises(ConfigError, match="tensors of this run's network"):
        started(name, tmp_path, assembled)
    assert not (tmp_path / name / "app" / START_MODEL).exists()


def test_a_file_that_is_no_model_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no model", encoding="utf-8")
    with pytest.raises(ConfigError, match="a model written by this project"):
        started("fedavg", tmp_path, tmp_path / "notes.txt")
