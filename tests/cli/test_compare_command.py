"""``fedpartial compare`` over a fake simulator: order, resuming, failures, interruptions, and what it says."""

from __future__ import annotations

import fcntl
import json
import shutil
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console
from small_hospitals import SITES
from typer.testing import CliRunner

from fedpartial.cli import compare as command
from fedpartial.cli import compare_pictures
from fedpartial.cli import run as run_command
from fedpartial.cli.compare import CompareOptions, compare_jobs
from fedpartial.cli.compare_progress import seconds_left
from fedpartial.cli.main import app
from fedpartial.cli.reply import attempt
from fedpartial.cli.run import Outcome
from fedpartial.cli.watch import Patience
from fedpartial.errors import DataFaults

FAILED = Outcome(report=None, faults=("the run ended without a report.json",), known=False)


@pytest.fixture
def written(monkeypatch):
    """The comparisons that were written, as lists of runs; the pages themselves have tests of their own."""
    found = []

    def write_pages(runs, title, out, pictures=()):
        found.append([str(run) for run in runs])
        (out / "comparison.html").write_text(title)
        return None, out / "comparison.html"

    monkeypatch.setattr(command, "write_pages", write_pages)
    monkeypatch.setattr(command, "print_table", lambda comparison, console: None)
    return found


@pytest.fixture
def in_a_terminal():
    """Ctrl-C counts, also where the tests run in the background of a script, which makes processes ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def jobs(tmp_path, job):
    """Two job folders, first and second."""
    second = shutil.copytree(job, tmp_path / "jobs/second")
    return str(job.rename(tmp_path / "jobs/first")), str(second)


@pytest.fixture
def compare(tmp_path, jobs, screen, report_text, monkeypatch):
    """``compare({"first/seed0": Outcome(...)})``: exit code where that run ends so, or raises, and all others end
    well. What was run is in ``compare.ran``."""

    def run(ends: dict | None = None, console=None, **options) -> int:
        def execute(prepared, interruption, view, patience) -> Outcome:
            name = "/".join(prepared.out.parts[-2:])
            run.ran.append(name)
            view.event({"event": "plan", "num_rounds": 1})
            if isinstance(end := (ends or {}).get(name), int):
                signal.raise_signal(end)
            if end:
                return end
            shutil.rmtree(prepared.workspace)
            (prepared.out / "report.json").write_text(report_text)
            (prepared.out / "global_model.safetensors").write_bytes(b"weights")
            return Outcome(report=json.loads(report_text), faults=(), known=True)

        run.ran = []
        monkeypatch.setattr(command, "execute", execute)
        given = {"jobs": jobs, "seeds": "0,1", "sites": SITES, "out": tmp_path / "out", "threads": 2, **options}
        screen.reply.console = console or screen.reply.console
        return attempt(lambda reply: compare_jobs(CompareOptions(**given), reply), screen.reply)

    return run


def test_every_job_runs_with_every_seed_seed_by_seed(compare, written, screen, tmp_path):
    assert compare() == 0
    assert compare.ran == ["first/seed0", "second/seed0", "first/seed1", "second/seed1"]
    assert [len(runs) for runs in written] == [1, 2, 3, 4, 4], "it is written after every run"
    for run in compare.ran:
        assert {"job", "report.json", "global_model.safetensors"} <= {
            p.name for p in (tmp_path / "out/runs" / run).iterdir()
        }
    server = json.loads((tmp_path / "out/runs/second/seed1/job/app/config/config_fed_server.json").read_text())
    assert server["seed"] == 1
    assert screen.errors == ""


def test_without_a_terminal_a_run_is_two_lines(compare, written, screen, tmp_path):
    compare()
    lines = screen.out.splitlines()
    assert len(lines) == 1 + 2 * 4 + 1
    assert lines[0] == "4 runs, 0 of them finished before"
    assert lines[5].startswith("run 3 of 4: first, seed 1: ")
    assert "so far, about" in lines[5]
    assert lines[6].startswith("run 3 of 4: first, seed 1: done in ")
    assert lines[-1] == f"comparison: {tmp_path / 'out/comparison.html'}"


def test_verbose_shows_a_runs_own_lines(compare, written, screen):
    compare(verbose=True, seeds="0")
    assert screen.out.count("FLARE runs; preparing data at") == 2


def test_a_terminal_shows_a_status_line(compare, written, tmp_path):
    with (tmp_path / "terminal.txt").open("w") as file:
        assert compare(seeds="0", console=Console(file=file, force_terminal=True, width=100)) == 0
    shown = (tmp_path / "terminal.txt").read_text()
    assert "preparing data" in shown
    assert "FLARE runs; preparing data" not in shown


def test_the_same_command_repeats_nothing(compare, written, screen):
    compare()
    assert compare() == 0
    assert compare.ran == []
    assert written[-1] == ["first, seed 0", "second, seed 0", "first, seed 1", "second, seed 1"]
    assert "4 runs, 4 of them finished before" in screen.out


def test_more_seeds_and_jobs_go_on_with_what_is_there(compare, written, jobs):
    compare(jobs=jobs[:1], seeds="0")
    assert compare(seeds="0,1") == 0
    assert compare.ran == ["second/seed0", "first/seed1", "second/seed1"]


def test_a_failing_run_stops_no_other_and_is_named_again_at_the_end(compare, written, screen, tmp_path):
    assert compare({"second/seed0": FAILED}) == 1
    assert len(compare.ran) == 4
    assert written[-1] == ["first, seed 0", "first, seed 1", "second, seed 1"]
    lines = screen.errors.splitlines()
    assert lines[0] == "error: the run ended without a report.json"
    assert lines[1] == f"FLARE's log: {tmp_path / 'out/runs/second/seed0/simulator.log'}"
    assert lines[-1] == "error: second, seed 0: the run ended without a report.json"
    assert "run 2 of 4: second, seed 0: failed after" in screen.out
    assert compare() == 0
    assert compare.ran == ["second/seed0"]
    assert not (tmp_path / "out/runs/second/seed0/workspace").exists()


def test_a_folder_that_cannot_be_written_is_a_failure_of_that_run(compare, written, screen, monkeypatch):
    make_folder = command.make_folder

    def full(checked):
        if checked.plan.seed == 0:
            raise OSError(28, "No space left on device")
        return make_folder(checked)

    monkeypatch.setattr(command, "make_folder", full)
    assert compare() == 1
    assert compare.ran == ["first/seed1", "second/seed1"]
    assert "error: first, seed 0: [Errno 28] No space left on device" in screen.errors


def test_without_any_finished_run_there_is_nothing_to_compare(compare, written, jobs, tmp_path):
    assert compare({"first/seed0": FAILED}, jobs=jobs[:1], seeds="0") == 1
    assert written == []
    assert not (tmp_path / "out/comparison.html").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_keeps_what_is_done_and_the_same_command_goes_on(
    compare, written, screen, in_a_terminal, number, code
):
    assert compare({"second/seed0": number}) == code
    assert compare.ran == ["first/seed0", "second/seed0"]
    assert written == [["first, seed 0"], ["first, seed 0"]]
    assert "1 of 4 runs are finished and kept; to continue, give the same command again" in screen.errors
    assert compare() == 0
    assert compare.ran == ["second/seed0", "first/seed1", "second/seed1"]


def test_what_an_interruption_left_is_run_again(compare, written, tmp_path):
    compare(seeds="0")
    (tmp_path / "out/runs/first/seed0/workspace").mkdir()
    assert compare(seeds="0") == 0
    assert compare.ran == ["first/seed0"]


def test_other_settings_are_refused_before_anything_runs(compare, written, screen, tmp_path):
    compare(seeds="0")
    assert compare(rounds=3) == 2
    assert compare.ran == []
    assert screen.errors.count("num_rounds was 8 and is now 3") == 2
    assert not (tmp_path / "out/runs/first/seed1").exists()


def test_two_commands_never_share_a_folder(compare, written, screen, tmp_path):
    (tmp_path / "out/runs").mkdir(parents=True)
    with (tmp_path / "out/runs/.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert compare() == 2
    assert compare.ran == []
    assert "another command" in screen.errors


def test_a_page_that_cannot_be_written_ends_no_run(compare, written, screen, monkeypatch):
    write, calls = command.write_pages, []

    def fail_once(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            raise OSError("the disk is full")
        return write(*arguments)

    monkeypatch.setattr(command, "write_pages", fail_once)
    assert compare() == 0
    assert "the comparison so far could not be written: the disk is full" in screen.errors


def test_pictures_are_made_after_the_last_run(compare, written, monkeypatch):
    shown, write = [], command.write_pages
    monkeypatch.setattr(compare_pictures, "overlay_pictures", lambda runs: [("a case", b"png")])
    monkeypatch.setattr(command, "write_pages", lambda *given: shown.append(given[3:]) or write(*given))
    compare({"second/seed1": FAILED})
    assert shown == [()] * 4 + [([("a case", b"png")],)]


def test_a_comparison_that_cannot_be_written_at_last_is_an_error(compare, written, screen, monkeypatch):
    def full(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr(command, "write_pages", full)
    assert compare(seeds="0") == 1
    assert screen.errors.endswith("error: the disk is full\n")


def test_a_file_is_no_folder_for_a_comparison(compare, written, screen, tmp_path):
    (tmp_path / "out").write_text("mine")
    assert compare() == 2
    assert "--out: folder" in screen.errors


def test_a_comparison_without_pictures_is_better_than_none(compare, written, screen, monkeypatch):
    def fail(runs):
        raise DataFaults(["the external set is gone"])

    monkeypatch.setattr(compare_pictures, "overlay_pictures", fail)
    assert compare() == 0
    assert "no pictures side by side" in screen.errors
    assert "the external set is gone" in screen.errors


def test_over_a_simulator_the_runs_and_the_comparison_are_written(tmp_path, jobs, screen, report_text, monkeypatch):
    script = shutil.copy(Path(__file__).with_name("fake_simulator.py"), tmp_path / "fake_simulator.py")
    (tmp_path / "report.json").write_text(report_text)
    good = [sys.executable, str(script), "good"]
    monkeypatch.setattr(run_command, "simulator_command", lambda job, ws, t: [*good, str(job), "-w", str(ws)])
    out = tmp_path / "out"
    options = CompareOptions(jobs=jobs[:1], seeds="0", sites=SITES, out=out)
    assert compare_jobs(options, screen.reply, Patience(look=0.02)) == 0
    assert {"job", "simulator.log", "report.html", "report.json"} <= {
        p.name for p in (out / "runs/first/seed0").iterdir()
    }
    assert not (out / "runs/first/seed0/workspace").exists()
    assert {"comparison.html", "comparison.md", "comparison.csv"} <= {path.name for path in out.iterdir()}
    assert json.loads((out / "comparison.json").read_text())["methods"] == ["first"]
    assert "Dice: Comparison of first" in screen.out
    assert "1.000" in screen.out


@pytest.mark.parametrize("options", [{"jobs": ()}, {"plan": Path("plan.json")}])
def test_jobs_or_a_plan_but_not_both(compare, screen, tmp_path, options):
    assert compare(**options) == 2
    assert f"fedpartial compare fedavg condistfl -o {tmp_path / 'out'}" in screen.errors


def test_a_plans_own_sites_and_the_option_are_refused_together(compare, written, screen, jobs, tmp_path):
    plan = tmp_path / "plan.json"
    plan.write_text(
        json.dumps({"runs": [{"job": job, "sites": [site]} for job, site in zip(jobs, SITES, strict=True)]})
    )
    assert compare(jobs=(), plan=plan, seeds="0") == 2
    assert "runs[0].sites: got 'a value here and --sites'" in screen.errors
    assert compare(jobs=(), plan=plan, seeds="0", threads=1, sites=None) == 0
    assert compare.ran == ["first/seed0", "second/seed0"]


def test_rows_of_one_home_are_stages_and_a_failure_ends_them(compare, written, screen, jobs, tmp_path):
    plan = tmp_path / "plan.json"
    runs = [{"name": f"{i}", "job": jobs[0], "home": "stages"} for i in range(3)] + [{"name": "other", "job": jobs[1]}]
    plan.write_text(json.dumps({"runs": runs}))
    assert compare({"1/seed0": FAILED}, jobs=(), plan=plan, seeds="0") == 1
    assert compare.ran == ["0/seed0", "1/seed0", "other/seed0"]
    assert "error: 2, seed 0: not run, because 1, seed 0 has failed before it" in screen.errors
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("out/homes/*/*")) == [
        "out/homes/other/seed0",
        "out/homes/stages/seed0",
    ]
    assert compare(jobs=(), plan=plan, seeds="0") == 0
    assert compare.ran == ["1/seed0", "2/seed0"]


def test_time_left_follows_the_steps_and_the_method():
    def run(name: str, work: int, seconds: float | None = None, report: object = None):
        return SimpleNamespace(name=name, work=work, seconds=seconds, report=report)

    assert seconds_left([run("a", 10), run("b", 10)]) is None
    runs = [run("a", 10, 20.0, {}), run("b", 10, 100.0, {}), run("a", 30), run("c", 5), run("b", 9, 1.0)]
    assert seconds_left(runs) == pytest.approx(30 * 2.0 + 5 * (120 / 20))


# --- the command line --------------------------------------------------------------------------------------


@pytest.fixture
def call(monkeypatch):
    """``call("compare", ...)`` runs the command line; the options that arrive are in ``call.options``."""

    def invoke(*arguments: str):
        return CliRunner().invoke(app, ["compare", *arguments], env={"COLUMNS": "100", "TERM": "dumb"})

    monkeypatch.setattr(command, "compare_jobs", lambda options, *_: setattr(invoke, "options", options) or 0)
    return invoke


def test_options_reach_the_comparison(call):
    first = "fedavg condistfl --seeds 0,2 --rounds 2 --local-steps 3 --sites liver,spleen --preset phantom -o there"
    more = "--device cpu --threads 1 --time-limit 0.5 --site-config here --plan plan.json --verbose"
    result = call(*f"{first} {more}".split())
    assert result.exit_code == 0
    assert call.options == CompareOptions(
        out=Path("there"),
        jobs=("fedavg", "condistfl"),
        plan=Path("plan.json"),
        seeds="0,2",
        rounds=2,
        local_steps=3,
        preset="phantom",
        sites=("liver", "spleen"),
        site_config=Path("here"),
        device="cpu",
        threads=1,
        time_limit_min=0.5,
        verbose=True,
    )


def test_without_options_the_jobs_decide(call):
    assert call("fedavg", "-o", "there").exit_code == 0
    assert call.options == CompareOptions(out=Path("there"), jobs=("fedavg",))


def test_help_has_examples_and_no_argument_shows_it(call):
    assert "fedpartial compare fedavg condistfl" in call("--help").output
    assert "fedpartial compare fedavg condistfl" in call().output
