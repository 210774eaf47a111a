"""The command line itself: help, version, usage errors, and how light its import is."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from fedpartial import __version__
from fedpartial.cli import run as command
from fedpartial.cli.main import app

HEAVY = ("torch", "nvflare", "monai", "numpy", "nibabel")


@pytest.fixture
def call(monkeypatch):
    """``call("run", "x")`` runs the command; Options that reach run_job are kept in ``call.options``."""

    def invoke(*arguments: str):
        return CliRunner().invoke(app, arguments, env={"COLUMNS": "100", "TERM": "dumb"})

    def remember(options, reply):
        invoke.options = options
        return 0

    invoke.options = None
    monkeypatch.setattr(command, "run_job", remember)
    return invoke


def test_help_names_the_command_and_its_example(call):
    assert "run" in call("--help").output
    text = call("run", "--help").output
    for option in ("--rounds", "--local-steps", "--sites", "--seed", "--preset", "--site-config", "--device"):
        assert option in text
    for option in ("--threads", "--time-limit", "--out", "--verbose", "--keep-workspace"):
        assert option in text
    assert "fedpartial run condistfl --rounds 2" in text


def test_version(call):
    result = call("--version")
    assert (result.exit_code, result.output) == (0, f"fedpartial {__version__}\n")


def test_importing_the_command_line_imports_nothing_heavy():
    code = f"import sys, fedpartial.cli.main; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_options_reach_the_run(call):
    arguments = "run fedavg --rounds 2 --local-steps 3 --sites liver,spleen --seed 4 --preset phantom --device cpu"
    result = call(*arguments.split(), "--threads", "1", "--time-limit", "0.5", "--out", "o", "--verbose")
    assert result.exit_code == 0
    options = call.options
    assert (options.job, options.rounds, options.local_steps, options.seed) == ("fedavg", 2, 3, 4)
    assert options.sites == ("liver", "spleen")
    assert (options.preset, options.device, options.threads, options.time_limit_min) == ("phantom", "cpu", 1, 0.5)
    assert str(options.out) == "o"
    assert options.verbose
    assert not options.keep_workspace


def test_without_options_the_job_decides(call):
    assert call("run", "fedavg").exit_code == 0
    options = call.options
    assert [options.rounds, options.local_steps, options.sites, options.seed, options.preset] == [None] * 5
    assert [options.site_config, options.device, options.threads, options.out] == [None] * 4
    assert options.time_limit_min == 24 * 60


@pytest.mark.parametrize(
    "wrong",
    [
        ["--rounds", "-1"],
        ["--rounds", "x"],
        ["--local-steps", "0"],
        ["--seed", "-1"],
        ["--threads", "0"],
        ["--time-limit", "0"],
        ["--nonsense"],
    ],
)
def test_a_wrong_option_is_a_usage_error(call, wrong):
    result = call("run", "fedavg", *wrong)
    assert result.exit_code == 2
    assert wrong[0] in result.output
    assert call.options is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "JOB: folder"),
        (["fedavg", "--preset", "x"], "--preset"),
        (["fedavg", "--sites", "a,,b"], "--sites"),
        (["fedavg", "--sites", "hospital-1"], "site hospital-1"),
        (["fedavg", "--device", "cuda:99"], "--device"),
        (["fedavg", "--site-config", "nowhere"], "--site-config"),
    ],
)
def test_what_the_user_got_wrong_is_one_line_and_exit_code_2(tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["run", *arguments])
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    assert result.stderr.startswith("error: ")
    assert said in result.stderr
    assert list(tmp_path.iterdir()) == []
