"""Everything wrong with a job's JSON is said before it runs, in the words of the class that complains."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from fedpartial.cli.job_check import check_job
from fedpartial.cli.job_folder import read_job
from fedpartial.errors import ConfigError

SERVER, CLIENT = "config_fed_server.json", "config_fed_client.json"


def method(config: dict) -> dict:
    """The arguments of the method in a client's configuration."""
    return config["components"][0]["args"]["method"]["args"]


def component(config: dict, name: str) -> dict:
    return next(c for c in config["components"] if c["id"] == name)


@pytest.fixture
def faults_of(job: Path, tmp_path: Path):
    def find() -> list[ConfigError]:
        return check_job(read_job(job), tmp_path / "build")[1]

    return find


def test_a_job_without_faults_gives_its_plan(job, tmp_path):
    plan, faults = check_job(read_job(job), tmp_path / "build")
    assert faults == []
    given = json.loads((job / "app/config" / SERVER).read_text())
    names = ("preset", "num_rounds", "local_steps", "seed")
    assert {name: getattr(plan, name) for name in names} == {name: given[name] for name in names}
    assert plan.job == "condistfl"


def test_an_unknown_argument_of_a_nested_class_is_named_with_the_known_ones(edit, faults_of):
    path = edit(CLIENT, lambda c: method(c).update(temprature=2.0))
    (fault,) = faults_of()
    assert fault.where == str(path)
    assert fault.field == "component 'learner'"
    assert "'temprature'" in fault.got
    assert "ConDistFL: temperature, weight_start, weight_end" in fault.expected


@pytest.mark.parametrize(("file", "name"), [(SERVER, "persistor"), (SERVER, "plan"), (SERVER, "scalars")])
def test_an_unknown_argument_of_any_component_is_refused(edit, faults_of, file, name):
    path = edit(file, lambda c: component(c, name)["args"].update(colour="red"))
    (fault,) = faults_of()
    assert fault.where == str(path)
    assert repr(name) in fault.field
    assert "'colour'" in fault.got


def test_an_unknown_argument_of_a_workflow_is_refused(edit, faults_of):
    edit(SERVER, lambda c: c["workflows"][0]["args"].update(num_round=1))
    (fault,) = faults_of()
    assert fault.field == "component 'rounds'"
    assert "'num_round'" in fault.got


def test_an_unknown_argument_of_a_filter_is_refused(edit, faults_of):
    edit(SERVER, lambda c: c["task_result_filters"][0]["filters"][0]["args"].update(strict=True))
    (fault,) = faults_of()
    assert "UpdateGuard" in fault.field
    assert "'strict'" in fault.got


def test_the_constructors_own_message_is_kept(edit, faults_of):
    edit(CLIENT, lambda c: method(c).update(temperature=-1.0))
    (fault,) = faults_of()
    assert "learner" in fault.field
    assert "temperature" in fault.field
    assert fault.got == -1.0
    assert "above 0" in fault.expected


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("fedpartial.methods.condistfl.ConDistFl", "ConDistFl"),
        ("fedpartial.methods.condist.ConDistFL", "No module named 'fedpartial.methods.condist'"),
        ("nowhere.ConDistFL", "No module named 'nowhere'"),
    ],
)
def test_a_class_that_is_not_there_is_named(edit, faults_of, path, said):
    edit(CLIENT, lambda c: c["components"][0]["args"]["method"].update(path=path))
    (fault,) = faults_of()
    assert fault.field == "component 'learner'"
    assert said in fault.got


@pytest.mark.parametrize(("key", "value"), [("num_rounds", -1), ("local_steps", "5"), ("seed", -1), ("preset", "x")])
def test_a_plan_that_is_wrong_is_refused(edit, faults_of, key, value):
    edit(SERVER, lambda c: c.update({key: value}))
    (fault,) = faults_of()
    assert key in str(fault)
    assert SERVER in fault.where
    assert fault.got == value or repr(value) in fault.got or key in fault.got


def test_a_variable_that_nobody_defines_is_refused(edit, faults_of):
    """FLARE would pass None: ScatterAndGather would run for a number of rounds of its own."""
    edit(SERVER, lambda c: c["workflows"][0]["args"].update(num_rounds="{rounds}"))
    (fault,) = faults_of()
    assert fault.field == "workflows[0].args.num_rounds"
    assert fault.got == "{rounds}"
    assert "'rounds'" in fault.expected


def test_variables_of_flare_and_of_the_environment_are_known(edit, faults_of, monkeypatch):
    edit(SERVER, lambda c: component(c, "persistor")["args"].update(start_from="{$START_MODEL}", plan_id="{JOB_ID}"))
    (fault,) = faults_of()
    assert "{$START_MODEL}" in fault.got
    monkeypatch.setenv("START_MODEL", "model.safetensors")
    assert faults_of() == []


def test_a_job_without_a_plan_is_refused(edit, faults_of):
    edit(SERVER, lambda c: c.update(components=[p for p in c["components"] if p["id"] != "plan"]))
    (fault,) = faults_of()
    assert "RunPlan" in fault.expected


def test_what_flare_refuses_is_said_in_its_words(edit, faults_of):
    edit("meta.json", lambda c: c.update(min_clients=9))
    (fault,) = faults_of()
    assert "meta.json" in fault.where
    assert "min 9 clients required" in fault.got


def test_a_wrong_format_version_is_refused(edit, faults_of):
    edit(CLIENT, lambda c: c.update(format_version=3))
    (fault,) = faults_of()
    assert CLIENT in fault.where
    assert "format_version" in fault.got


def test_server_and_sites_are_judged_in_one_pass_and_a_shared_file_once(edit, faults_of):
    edit(SERVER, lambda c: component(c, "recorder")["args"].update(x=1))
    edit(CLIENT, lambda c: method(c).update(y=1))
    edit("meta.json", lambda c: c.update(min_clients=9))
    assert [Path(fault.where).name for fault in faults_of()] == ["meta.json", SERVER, CLIENT]


def test_nothing_is_printed_or_logged(edit, faults_of, capsys, caplog):
    edit(CLIENT, lambda c: method(c).update(y=1))
    assert len(faults_of()) == 1
    assert capsys.readouterr() == ("", "")
    assert caplog.records == []
    logging.getLogger("afterwards").error("said again")
    assert len(caplog.records) == 1


def test_code_in_the_jobs_custom_folder_is_found(job, edit, faults_of):
    (job / "app/custom/my_method_for_this_test.py").write_text(
        "from fedpartial.methods.fedavg import FedAvg\nclass Mine(FedAvg):\n    pass\n"
    )
    edit(CLIENT, lambda c: c["components"][0]["args"].update(method={"path": "my_method_for_this_test.Mine"}))
    assert faults_of() == []
