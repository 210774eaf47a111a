"""Server and sites with other code: a clear error by name of the site, and nothing is trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from in_process import Hospital, Server, on_the_wire
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.shareable import Shareable

from fedpartial import __version__
from fedpartial.flare import code_check
from fedpartial.flare.code_check import (
    HEADER,
    MANIFEST,
    CodeMismatch,
    attach_code,
    check_manifest,
    check_task_code,
    own_code,
)
from fedpartial.flare.failure import REASON_HEADER, public_reason
from fedpartial.methods.fedavg import FedAvg
from fedpartial.package_hash import PACKAGE, hash_of, package_files, package_hash

OTHER = {"package_hash": "0123456789abcdef" * 4, "version": "0.0.9"}


def manifest(**changes) -> dict:
    """What fedpartial bundle writes."""
    about = {"source_commit": None, "created": "2026-01-01T00:00:00+00:00", "options": {}}
    return {"schema_version": 1, **own_code(), "files": package_files(), **about, **changes}


def other_files(*, learner: str = "0" * 64) -> dict:
    """A manifest of a package whose learner.py is another one."""
    files = {**package_files(), "flare/learner.py": learner}
    return manifest(files=files, package_hash=hash_of(files), version="0.0.9")


def put(app: Path, content: object) -> None:
    (app / "config").mkdir(parents=True, exist_ok=True)
    (app / "config" / MANIFEST).write_text(content if isinstance(content, str) else json.dumps(content))


def task_with(code: object) -> Shareable:
    task = Shareable()
    if code is not None:
        task.set_header(HEADER, code)
    return on_the_wire(task)


# --- the comparison ------------------------------------------------------------------------------------


def test_the_same_code_passes_with_and_without_a_manifest(tmp_path):
    task = Shareable()
    attach_code(task)
    check_task_code(on_the_wire(task), "liver", tmp_path)
    put(tmp_path, manifest())
    check_task_code(on_the_wire(task), "liver", tmp_path)
    check_manifest(tmp_path, "the server")


def test_other_code_at_the_server_names_both_and_what_to_do(tmp_path):
    with pytest.raises(CodeMismatch) as caught:
        check_task_code(task_with(OTHER), "liver", tmp_path)
    error = caught.value
    assert error.field == "code"
    assert error.got == f"{package_hash()[:12]} (fedpartial {__version__}), site liver"
    assert error.expected == "0123456789ab (fedpartial 0.0.9), as the server"
    assert "uninstall" in error.remedy
    assert str(PACKAGE) in error.where
    assert str(PACKAGE) in str(error)
    assert "/" not in public_reason(error)
    assert "0123456789ab" in public_reason(error)
    assert "uninstall" in public_reason(error)


@pytest.mark.parametrize("code", [None, "x", [], {}, {"package_hash": "0" * 64}, {"package_hash": 1, "version": "1"}])
def test_a_server_that_does_not_say_its_code_is_refused(tmp_path, code):
    with pytest.raises(CodeMismatch, match="does not say the server's code, at site liver") as caught:
        check_task_code(task_with(code), "liver", tmp_path)
    assert "at the server" in caught.value.remedy


def test_a_manifest_of_other_code_is_refused_and_the_changed_file_is_named_here_only(tmp_path):
    put(tmp_path, other_files())
    with pytest.raises(CodeMismatch, match=r"differs in flare/learner\.py\)") as caught:
        check_manifest(tmp_path, "the server")
    assert f"got {package_hash()[:12]} (fedpartial {__version__}), the server" in caught.value.public
    assert "learner" not in caught.value.public


def test_of_many_changed_files_three_are_named(tmp_path):
    files = dict.fromkeys(package_files(), "0" * 64)
    put(tmp_path, manifest(files=files, package_hash=hash_of(files)))
    with pytest.raises(CodeMismatch, match=f"and {len(files) - 3} more"):
        check_manifest(tmp_path, "the server")


DAMAGED = {
    "cut off": json.dumps(manifest())[:200],
    "empty": "",
    "a list": [],
    "a missing key": {key: value for key, value in manifest().items() if key != "files"},
    "an unknown key": manifest(colour="red"),
    "another schema": manifest(schema_version=2),
    "a number for a hash": manifest(package_hash=7),
    "files in a list": manifest(files=list(package_files())),
    "a hash that is not of its files": manifest(package_hash="0" * 64),
    "a changed file hash": manifest(files={**package_files(), "labels.py": "0" * 64}),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_manifest_is_refused_also_where_the_code_is_right(tmp_path, content):
    put(tmp_path, content)
    task = Shareable()
    attach_code(task)
    with pytest.raises(CodeMismatch, match=MANIFEST) as caught:
        check_task_code(task, "liver", tmp_path)
    assert "site liver" in caught.value.got
    assert "/" not in caught.value.public


# --- in a federation -----------------------------------------------------------------------------------


@pytest.fixture
def with_other_code(monkeypatch: pytest.MonkeyPatch) -> Callable[[Hospital], None]:
    """Lets one hospital run another package than everybody else."""

    def change(hospital: Hospital) -> None:
        execute = hospital.execute

        def execute_with_other_code(*arguments):
            with monkeypatch.context() as patch:
                patch.setattr(code_check, "package_hash", lambda: OTHER["package_hash"])
                patch.setattr(code_check, "__version__", OTHER["version"])
                return execute(*arguments)

        monkeypatch.setattr(hospital, "execute", execute_with_other_code)

    return change


def events(server: Server, name: str) -> list[dict]:
    return [line for line in server.progress() if line["event"] == name]


def nothing_trained(server: Server) -> bool:
    return not events(server, "update") and not list(server.root.parent.rglob("*.safetensors"))


def test_one_site_with_other_code_stops_a_job_that_needs_it(make_server, with_other_code, caplog):
    server = make_server(None, FedAvg(), num_rounds=1)
    with_other_code(server.link.hospitals["spleen"])
    server.run()
    failures = events(server, "failure")
    assert {failure["site"] for failure in failures} == {"spleen"}
    reason = failures[0]["reason"]
    assert "got 0123456789ab (fedpartial 0.0.9), site spleen" in reason
    assert f"expected {package_hash()[:12]} (fedpartial {__version__}), as the server" in reason
    assert str(PACKAGE) not in json.dumps(server.progress())
    assert f"site spleen failed: {reason}" in caplog.text
    (panic,) = events(server, "panic")
    assert "spleen" in panic["reason"]
    assert not (server.app / "global_model.safetensors").exists()
    spleen = server.link.hospitals["spleen"].app
    assert str(PACKAGE) in json.loads((spleen / "site_failure.json").read_text())["error"]
    assert not list(spleen.rglob("*.safetensors"))


def test_a_federation_of_two_versions_trains_nothing(make_server, with_other_code):
    server = make_server(None, FedAvg(), num_rounds=1)
    for hospital in server.link.hospitals.values():
        with_other_code(hospital)
    server.run(min_clients=1)
    assert {failure["site"] for failure in events(server, "failure")} == {"liver", "spleen"}
    assert nothing_trained(server)


def test_the_code_is_compared_before_anything_else_of_the_task(make_hospital, tmp_path):
    """A server of another version may have another plan; the site file may be wrong too."""
    hospital = make_hospital(method=FedAvg())
    (hospital.root / "local" / "sites" / "liver.json").write_text("{")
    task = task_with(OTHER)
    task.set_header("fedpartial_plan", {"a plan of another version": 1})
    reply = on_the_wire(hospital.execute("train", task))
    assert reply.get_return_code() == ReturnCode.EXECUTION_EXCEPTION
    assert reply.get_header(REASON_HEADER).startswith(f"code: got {package_hash()[:12]}")


def test_a_site_that_got_a_bundle_made_with_other_code_refuses(make_server):
    server = make_server(None, FedAvg(), num_rounds=1)
    for hospital in server.link.hospitals.values():
        put(hospital.app, other_files())
    server.run(min_clients=1)
    assert {failure["site"] for failure in events(server, "failure")} == {"liver", "spleen"}
    assert "(fedpartial 0.0.9), as the job's" in events(server, "failure")[0]["reason"]
    assert nothing_trained(server)


@pytest.mark.parametrize("content", [other_files(), "{"], ids=["other code", "damaged"])
def test_a_server_with_other_code_than_the_bundle_stops_before_any_site_is_asked(make_server, content, caplog):
    server = make_server(None, FedAvg(), num_rounds=1)
    put(server.app, content)
    server.run()
    (panic,) = events(server, "panic")
    assert panic["reason"].startswith("code: got ")
    assert "the server" in panic["reason"]
    assert str(PACKAGE) not in panic["reason"]
    assert "code: got" in caplog.text
    assert not events(server, "failure")
    assert nothing_trained(server)


def test_with_the_right_manifests_everywhere_the_run_ends_well(make_server):
    server = make_server(None, FedAvg(), num_rounds=1)
    for app in (server.app, *(hospital.app for hospital in server.link.hospitals.values())):
        put(app, manifest())
    server.run(evaluate=False)
    assert len(events(server, "update")) == 2
    assert not events(server, "failure")
    assert (server.app / "global_model.safetensors").exists()
