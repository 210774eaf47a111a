"""A provisioned federation with mutual TLS whose sites allow reviewed code only, although its server allows more."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import subprocess
import zipfile
from pathlib import Path

import pytest
from real_federation import Federation, RefusedError
from startup_kits import LEAD, MEMBER, OPERATOR, OTHER_LEAD, SERVER, SITE_ADMIN, provision
from tiny_work import SITES, bundle, edit, hospitals

from fedpartial.networks.build import build_network
from fedpartial.networks.canonical import canonical_state
from fedpartial.presets import get_preset
from fedpartial.training.model_file import load_model

pytestmark = [pytest.mark.poc, pytest.mark.timeout(240)]
COMMAND = "nvflare.app_common.executors.command_executor.CommandExecutor"


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("reviewed")
    files = hospitals(folder / "hospitals")
    policies = {SERVER: "byoc", **dict.fromkeys(SITES, "reviewed")}
    with Federation(folder / "federation", SITES, policy=policies, site_files=files) as running:
        yield running


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle(tmp_path_factory.mktemp("bundles") / "installed")


def test_an_installed_job_runs_to_model_and_report_and_nobody_else_can_stop_it(federation, installed):
    job = federation.submit(installed)
    federation.wait_for_event(job, "plan")
    for stranger in (OTHER_LEAD, SITE_ADMIN, MEMBER):
        with pytest.raises(RefusedError, match="not authorized for 'abort_job'"):
            federation.abort(job, user=stranger)
    assert federation.wait(job) == "FINISHED:COMPLETED"
    with pytest.raises(RefusedError, match="not authorized for 'download_job'"):
        federation.download(job, user=OTHER_LEAD)
    results = federation.download(job, user=LEAD) / "workspace" / "app_server"
    weights, _ = load_model(results / "global_model.safetensors")
    assert set(weights) == set(canonical_state(build_network(get_preset("phantom"), seed=0)))
    assert set(json.loads((results / "report.json").read_text(encoding="utf-8"))["sites"]) >= set(SITES)


@pytest.mark.parametrize("user", [SITE_ADMIN, MEMBER, OPERATOR], ids=lambda user: user.role)
def test_only_a_lead_may_submit(federation, installed, user):
    before = sorted(federation.stored_jobs())
    with pytest.raises(RefusedError, match="not authorized for 'submit_job'"):
        federation.submit(installed, user=user)
    assert sorted(federation.stored_jobs()) == before


def test_sites_refuse_a_job_that_brings_code(federation, tmp_path):
    job = federation.submit(bundle(tmp_path / "shipped", "shipped"))
    assert federation.wait(job) == "FINISHED:FAILED_TO_RUN"
    detail = federation.meta(job)["job_deploy_detail"]
    assert "server: OK" in detail
    assert all(any(line.startswith(site) and "BYOC not permitted" in line for line in detail) for site in SITES)


def _run_commands(config: dict) -> None:
    config["executors"][0]["executor"] = {"path": COMMAND, "args": {}}


def _run_commands_inside(config: dict) -> None:
    config["components"][0]["args"]["method"] = {"path": "subprocess.Popen", "args": {"args": ["touch", "ran"]}}


@pytest.mark.parametrize(("change", "name"), [(_run_commands, COMMAND), (_run_commands_inside, "subprocess.Popen")])
def test_sites_refuse_a_class_that_is_not_on_their_list(federation, tmp_path, change, name):
    folder = bundle(tmp_path / "hostile")
    edit(folder / "app" / "config" / "config_fed_client.json", change)
    job = federation.submit(folder)
    assert federation.wait(job) != "FINISHED:COMPLETED"
    for site in SITES:
        assert f"Component '{name}' at" in federation.site_log(site)
    assert not list(federation.folder.rglob("ran"))


def test_a_job_changed_after_it_was_signed_is_refused(federation, installed):
    federation.stop(*SITES)  # the server keeps the job until sites are there
    job = federation.submit(installed)
    _change_stored_job(federation, job)
    federation.start(*SITES)
    assert federation.wait(job) == "FINISHED:FAILED_TO_RUN"
    assert "signature verification" in str(federation.meta(job)["job_deploy_detail"])


def _change_stored_job(federation: Federation, job: str) -> None:
    """Another temperature in the sites' configuration, in the server's store."""
    path = federation.stored_jobs()[job] / "data"
    with zipfile.ZipFile(path) as stored:
        files = {name: stored.read(name) for name in stored.namelist()}
    (config,) = (name for name in files if name.endswith("config_fed_client.json"))
    changed = files[config].replace(b'"temperature": 0.5', b'"temperature": 0.7')
    assert changed != files[config]
    with zipfile.ZipFile(path, "w") as stored:
        for name, content in {**files, config: changed}.items():
            stored.writestr(name, content)


def test_a_key_of_another_authority_is_refused(federation, tmp_path):
    others = provision(tmp_path / "others", federation.home, ["liver"])
    assert _is_let_in(federation, federation.kit("liver") / "startup")
    assert not _is_let_in(federation, others / "liver" / "startup")


def _is_let_in(federation: Federation, startup: Path) -> bool:
    """Whether the server accepts this certificate; it then waits for the client to speak first."""
    context = ssl.create_default_context(cafile=federation.kit("liver") / "startup" / "rootCA.pem")
    context.load_cert_chain(startup / "client.crt", startup / "client.key")
    with (
        socket.create_connection((SERVER, federation.port), timeout=3) as plain,
        context.wrap_socket(plain, server_hostname=SERVER) as secure,
    ):
        try:
            return bool(secure.recv(1))  # with TLS 1.3 a refusal arrives, or the line is cut, after the handshake
        except TimeoutError:
            return True
        except (ssl.SSLError, ConnectionError):
            return False


def test_a_site_cannot_register_under_another_name(federation, tmp_path):
    kit = Path(shutil.copytree(federation.kit("liver") / "startup", tmp_path / "kit" / "startup")).parent
    shutil.copytree(federation.kit("liver") / "local", kit / "local")
    script = kit / "startup" / "sub_start.sh"
    script.write_text(script.read_text(encoding="utf-8").replace("uid=liver", "uid=pancreas"), encoding="utf-8")
    refusal = "authenticated as 'liver' but claimed endpoint 'pancreas'"
    with (tmp_path / "log").open("wb") as log:
        command = ["bash", str(script), "--once"]
        intruder = subprocess.Popen(command, env=federation.environment, stdout=log, stderr=log, cwd=kit)
    try:
        federation.wait_for(lambda: refusal in federation.server_log(), 30, refusal)
    finally:
        intruder.kill()
        intruder.wait()
    assert "New client pancreas" not in federation.server_log()


def test_a_site_administrator_stops_only_the_own_site(federation):
    with pytest.raises(RefusedError):
        federation.nvflare("system", "shutdown", "client", "spleen", "--force", user=SITE_ADMIN)
    with pytest.raises(RefusedError, match="not authorized for 'shutdown'"):
        federation.nvflare("system", "shutdown", "server", "--force", user=SITE_ADMIN)
    federation.nvflare("system", "shutdown", "client", "liver", "--force", user=SITE_ADMIN)
    federation.wait_for(lambda: not federation.running("liver"), 30, "liver ends")
    assert federation.running("spleen")
