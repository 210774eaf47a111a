"""What every command promises: help with examples, one name for one thing, --json, honest exit codes, no traceback."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from fedpartial.cli import completion
from fedpartial.cli.main import app
from fedpartial.cli.refused import Refused
from fedpartial.cli.reply import Reply, answer
from fedpartial.errors import ConfigError, DataFaults, NoSpaceLeft

ROOT = typer.main.get_command(app)
SUBCOMMANDS = {f"store {name}": command for name, command in ROOT.commands["store"].commands.items()}
COMMANDS = {**{name: command for name, command in ROOT.commands.items() if name != "store"}, **SUBCOMMANDS}
SHORT = {"-o": "--out"}
WRONG = ConfigError(where="liver.json", field="labels", got="x", expected="y", remedy="Do z.")


def options(command) -> dict[str, object]:
    return {name: parameter for parameter in command.params for name in parameter.opts if name.startswith("-")}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_explains_itself(name):
    command = COMMANDS[name]
    assert "Exit codes:" in command.help
    assert all(getattr(parameter, "help", None) for parameter in command.params), "every argument and option has a help"
    if name not in SUBCOMMANDS:
        assert f"fedpartial {name} " in command.epilog


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_answers_scripts(name):
    given = options(COMMANDS[name])
    assert "--json" in given
    assert {short: given[short].opts[-1] for short in given if not short.startswith("--")} in ({}, SHORT)


def test_one_option_means_one_thing():
    kinds: dict[str, set] = {}
    for command in COMMANDS.values():
        for name, parameter in options(command).items():
            kinds.setdefault(name, set()).add((str(parameter.bare_type), parameter.is_flag, parameter.multiple))
    assert {name: found for name, found in kinds.items() if len(found) > 1} == {}
    assert len(kinds) > 20


def said(work, *, as_json: bool):
    """What a command with this work prints, and its exit code."""
    trial = typer.Typer()
    trial.command()(lambda: answer(as_json, work))
    return CliRunner().invoke(trial, [])


def failing(error: BaseException):
    def work(reply: Reply) -> int:
        reply.say("working")
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "code", "number"),
    [
        (WRONG, 2, 1),
        (Refused([WRONG, WRONG]), 2, 2),
        (DataFaults(["a", "b", "c"]), 2, 3),
        (PermissionError(13, "Permission denied", "models"), 1, 1),
        (NoSpaceLeft("models", "there"), 1, 1),
        (KeyboardInterrupt(), 130, 0),
    ],
)
def test_an_error_is_a_line_and_an_exit_code(error, code, number):
    text = said(failing(error), as_json=False)
    assert (text.exit_code, text.stdout) == (code, "working\n")
    assert text.stderr.count("error: ") == number
    assert "Traceback" not in text.stderr
    found = said(failing(error), as_json=True)
    content = json.loads(found.stdout)
    assert (found.exit_code, content["exit_code"], len(content["errors"])) == (code, code, number)
    assert found.stderr.startswith("working\n")


def test_a_mistake_reaches_scripts_in_parts():
    (error,) = json.loads(said(failing(WRONG), as_json=True).stdout)["errors"]
    assert error == {**vars(WRONG), "message": str(WRONG)}


def test_the_object_holds_what_the_command_found():
    def work(reply: Reply) -> int:
        reply.add(out="runs/ä", number=3)
        return 1

    content = json.loads(said(work, as_json=True).stdout)
    assert content == {"out": "runs/ä", "number": 3, "errors": [], "exit_code": 1}


def test_the_shell_completes_jobs_and_presets():
    assert {"condistfl", "condistfl_union"} <= set(completion.job_names("condist"))
    assert completion.preset_names("phantom_m") == ["phantom_menu", "phantom_mmds", "phantom_mmds_swin"]
    script = subprocess.run(
        [sys.executable, "-m", "fedpartial", "--show-completion", "bash"], capture_output=True, text=True, check=True
    ).stdout
    assert "_FEDPARTIAL_COMPLETE" in script
