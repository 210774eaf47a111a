"""How a run ends, over a fake simulator that goes wrong in the ways of the real one; nothing is left running."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from small_hospitals import SITES

from fedpartial.cli import simulator
from fedpartial.cli.processes import RunProcesses

TIME_LIMIT_MIN = 0.02
"""Time for the fake to start, also on a busy machine."""


def results(out: Path) -> set[str]:
    return {path.name for path in out.iterdir()}


# --- success ------------------------------------------------------------------------------------------


def test_a_good_run_keeps_its_results_and_removes_the_workspace(fake_run, screen):
    code, out = fake_run("good", must_end_by_itself=True)
    assert (code, screen.errors) == (0, "")
    assert results(out) == {
        "job",
        "logs",
        "tb_events",
        "simulator.log",
        "progress.jsonl",
        "report.json",
        "report.html",
        "scores.csv",
        "rounds.csv",
        "global_model.safetensors",
        "best_global_model.safetensors",
    }
    assert (out / "global_model.safetensors").read_bytes() == b"weights"
    assert (out / "best_global_model.safetensors").read_bytes() == b"best weights"
    assert (out / "logs/server.txt").read_text() == "the server's log\n"
    assert (out / "tb_events/liver/events.out.tfevents.1").read_bytes() == b"scalars"
    assert "Dice of condistfl" in screen.out
    assert f"report: {out / 'report.html'}" in screen.out


def test_models_that_sites_adapted_are_kept_by_site_and_announced(fake_run, screen):
    code, out = fake_run("adapts", must_end_by_itself=True)
    assert (code, screen.errors) == (0, "")
    kept = {path.relative_to(out).as_posix(): path.read_text() for path in out.glob("adapted/*/*")}
    ways = ("all", "encoder_frozen")
    assert kept == {f"adapted/{s}/adapted_{way}.safetensors": f"{way} of {s}" for s in SITES for way in ways}
    assert "workspace" not in results(out)
    assert f"adapted to themselves: {out / 'adapted'}/<site>/" in screen.out.replace("\n", "")


def test_the_run_used_the_changed_job_and_the_site_files(fake_run, hospitals):
    code, out = fake_run("good", rounds=3, seed=9, site_config=hospitals, keep_workspace=True)
    assert code == 0
    server = json.loads((out / "job/app/config/config_fed_server.json").read_text())
    assert (server["num_rounds"], server["seed"], server["min_clients"]) == (3, 9, 2)
    assert json.loads((out / "job/meta.json").read_text())["deploy_map"] == {"app": ["server", *SITES]}
    for site in SITES:
        assert (out / f"workspace/local/sites/{site}.json").is_file()


def test_the_exit_code_of_the_simulator_says_nothing(fake_run):
    assert fake_run("exits_with_2_after_report", must_end_by_itself=True)[0] == 0


def test_a_simulator_that_never_ends_after_its_report_is_ended(fake_run, left_running):
    code, out = fake_run("hangs_after_report", keep_workspace=True)
    assert code == 0
    assert left_running(out, 1) == []


def test_a_process_that_outlives_the_simulator_is_ended(fake_run, left_running):
    code, out = fake_run("orphan_stays", must_end_by_itself=True, keep_workspace=True)
    assert code == 0
    assert left_running(out, 2) == []


def test_a_path_with_a_space_reaches_flare_without_one(fake_run, tmp_path):
    code, out = fake_run("good", must_end_by_itself=True, out=tmp_path / "my results")
    assert code == 0
    assert {"report.json", "global_model.safetensors"} <= results(out)
    assert "workspace" not in results(out)


# --- failures -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        ("no_report", ["ended without a report.json", "the disk is full"]),
        ("no_model", ["ended without a global_model.safetensors"]),
        ("broken_report", ["report.json cannot be used", "is a required property"]),
        ("site_without_scores", ["site spleen: gave no scores"]),
        ("crashes", ["ended without a report.json", "Simulator setup error: no such thing"]),
    ],
)
def test_what_was_not_written_is_a_failure_whatever_the_exit_code(fake_run, screen, behaviour, said):
    code, out = fake_run(behaviour, must_end_by_itself=True)
    assert code == 1
    assert all(text in screen.errors for text in said)
    assert str(out / "simulator.log") in screen.errors
    assert (out / "workspace").is_dir(), "the workspace stays after a failure"


def test_a_failing_site_ends_the_run_with_its_own_words(fake_run, screen, left_running, hospitals):
    code, out = fake_run("site_fails_and_hangs", site_config=hospitals)
    assert code == 1
    assert left_running(out, 3) == []
    assert screen.errors.count("error: ") == 1
    assert f"error: site liver: {hospitals}/first.json: labels: got 'x'; expected y." in screen.errors
    assert "the public reason" not in screen.errors


def test_every_failing_site_is_named_once(fake_run, screen):
    code, _ = fake_run("site_fails_and_ends", must_end_by_itself=True)
    assert code == 1
    assert screen.errors.count("error: ") == 2
    assert "error: site liver: ZeroDivisionError: division by zero at liver" in screen.errors
    assert "error: site spleen: ZeroDivisionError: division by zero at spleen" in screen.errors


def test_a_site_that_fails_in_the_final_evaluation_costs_the_success_but_not_the_report(fake_run, screen):
    code, out = fake_run("site_fails_in_final_evaluation")
    assert code == 1
    assert "error: site liver: 1 fault(s) in the data set" in screen.errors
    assert "Dice of condistfl" in screen.out
    assert {"report.html", "global_model.safetensors"} <= results(out)


def test_without_the_sites_own_words_the_server_is_quoted(fake_run, screen, left_running):
    code, out = fake_run("only_the_server_knows")
    assert code == 1
    assert "error: site liver: the public reason" in screen.errors
    assert screen.errors.count("error: ") == 1, "a site that was told to stop is blamed"
    assert left_running(out, 1) == []


def test_a_panic_is_quoted_where_no_site_is_to_blame(fake_run, screen):
    assert fake_run("panics")[0] == 1
    assert "error: the server stopped the job: component 'persistor' is missing" in screen.errors


def test_a_site_process_that_dies_ends_the_run(fake_run, screen, left_running):
    started = time.monotonic()
    code, out = fake_run("site_dies")
    assert code == 1
    assert time.monotonic() - started < 60
    assert "error: site liver: its process ended without a word" in screen.errors
    assert screen.errors.count("error: ") == 1
    assert left_running(out, 3) == []


def test_the_only_site_process_that_is_not_started_again_ends_the_run(fake_run, screen, left_running):
    code, out = fake_run("only_site_process_dies", threads=1)
    assert code == 1
    assert "error: a site's process ended without a word" in screen.errors
    assert left_running(out, 3) == []


def test_flares_own_line_about_a_dead_site_ends_the_run_with_fewer_threads_too(fake_run, screen):
    assert fake_run("flare_says_a_site_died", threads=1)[0] == 1
    assert "error: site liver: its process ended without a word" in screen.errors


def test_a_site_process_that_never_answers_ends_the_run(fake_run, screen):
    assert fake_run("site_never_starts")[0] == 1
    assert "Failed to create connection" in screen.errors


@pytest.mark.parametrize("behaviour", ["hangs", "ignores_sigterm"])
def test_the_time_limit_ends_the_run(fake_run, screen, left_running, behaviour):
    code, out = fake_run(behaviour, time_limit_min=TIME_LIMIT_MIN)
    assert code == 1
    assert f"time limit of {TIME_LIMIT_MIN} min" in screen.errors
    assert left_running(out, 1) == []


@pytest.fixture
def signal_when_it_runs(tmp_path):
    """``signal_when_it_runs(number, handler)`` sends a signal to this process, which has that handler until then."""
    handlers = {}

    def send(number: signal.Signals, times: int) -> None:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("out/workspace/server/simulate_job/app_server/progress.jsonl")):
            if time.monotonic() > deadline:
                return
            time.sleep(0.05)
        for _ in range(times):
            os.kill(os.getpid(), number)
            time.sleep(0.3)

    def prepare(number: signal.Signals, handler, times: int = 1) -> None:
        handlers[number] = signal.signal(number, handler)
        threading.Thread(target=send, args=[number, times], daemon=True).start()

    yield prepare
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_an_interruption_ends_every_process_and_keeps_what_is_done(
    fake_run, screen, left_running, signal_when_it_runs, number, code
):
    signal_when_it_runs(number, signal.default_int_handler)
    got, out = fake_run("hangs")
    assert got == code
    assert "interrupted" in screen.errors
    assert left_running(out, 1) == []
    assert {"simulator.log", "progress.jsonl", "logs", "workspace"} <= results(out)
    assert signal.getsignal(number) is signal.default_int_handler


def test_a_second_ctrl_c_waits_for_nobody(fake_run, screen, left_running, signal_when_it_runs):
    signal_when_it_runs(signal.SIGINT, signal.default_int_handler, times=2)
    started = time.monotonic()
    code, out = fake_run("ignores_sigterm", must_end_by_itself=True)
    assert code == 130
    assert time.monotonic() - started < 60
    assert left_running(out, 1) == []
    assert "progress.jsonl" in results(out)


def test_under_nohup_a_closed_terminal_ends_nothing(fake_run, screen, signal_when_it_runs):
    signal_when_it_runs(signal.SIGHUP, signal.SIG_IGN)
    assert fake_run("hangs", time_limit_min=TIME_LIMIT_MIN)[0] == 1
    assert "time limit" in screen.errors


# --- what is refused before ---------------------------------------------------------------------------------


def test_faults_of_job_sites_and_options_are_shown_together_and_nothing_is_started(fake_run, screen, edit, hospitals):
    edit("config_fed_client.json", lambda c: c["components"][0]["args"]["method"]["args"].update(temprature=1))
    (hospitals / "liver.json").write_text("{")
    code, out = fake_run("good", site_config=hospitals, threads=5)
    assert code == 2
    lines = screen.errors.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("error: ") for line in lines)
    assert "--threads" in lines[0]
    assert "jobs/condistfl/app/config/config_fed_client.json: component 'learner'" in lines[1]
    assert "'temprature'" in lines[1]
    assert f"site liver: {hospitals}/liver.json" in lines[2]
    assert not out.exists()
    assert screen.out == ""


def test_results_are_never_overwritten(fake_run, screen, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/precious.txt").write_text("mine")
    assert fake_run("good")[0] == 2
    assert "--out: folder" in screen.errors
    assert results(tmp_path / "out") == {"precious.txt"}


def test_an_empty_results_folder_may_be_there(fake_run, tmp_path):
    (tmp_path / "out").mkdir()
    assert fake_run("good", must_end_by_itself=True)[0] == 0


def test_results_have_a_dated_folder_by_default(fake_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert fake_run("good", must_end_by_itself=True, out=None)[0] == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("condistfl-2")
    assert (folder / "report.json").is_file()


def test_a_site_file_that_nobody_reads_is_mentioned(fake_run, screen, hospitals):
    (hospitals / "livr.json").write_text("{}")
    assert fake_run("good", must_end_by_itself=True, site_config=hospitals)[0] == 0
    assert "not used: livr.json" in screen.errors


# --- the environment ------------------------------------------------------------------------------------------


def test_the_simulator_gets_the_device_and_an_absolute_cache(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEDPARTIAL_CACHE", "there")
    given = simulator.environment("cuda:1")
    assert given["FEDPARTIAL_DEVICE"] == "cuda:1"
    assert given["FEDPARTIAL_CACHE"] == str(tmp_path / "there")
    assert "FEDPARTIAL_DEVICE" not in simulator.environment(None)


def test_the_simulator_gets_the_home_that_was_asked_for_or_the_users_as_absolute_paths(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEDPARTIAL_HOME", "mine")
    assert simulator.environment(None)["FEDPARTIAL_HOME"] == str(tmp_path / "mine")
    assert simulator.environment(None, Path("other"))["FEDPARTIAL_HOME"] == str(tmp_path / "other")


@pytest.mark.parametrize(("free_gib", "threads"), [(100, 4), (2.9, 3), (1.7, 1), (0.1, 1)])
def test_as_many_sites_at_a_time_as_memory_holds(monkeypatch, free_gib, threads):
    monkeypatch.setattr(simulator, "available_bytes", lambda: int(free_gib * 1024**3))
    assert simulator.default_threads(4) == threads


def test_this_machine_has_memory():
    assert 100 * 1024**2 < simulator.available_bytes() < 2**50


def test_processes_are_found_by_command_line_where_there_is_no_proc(tmp_path):
    command = [sys.executable, "-c", "import time; time.sleep(60)", "nvflare", f"{tmp_path}/ws", "simulator_worker"]
    child = subprocess.Popen([*command, "--client", "liver"], start_new_session=True)
    try:
        assert child.pid in dict(RunProcesses("mark", tmp_path / "ws").by_command())
        assert child.pid not in dict(RunProcesses("mark", tmp_path / "other").by_command())
    finally:
        child.kill()
        child.wait()
