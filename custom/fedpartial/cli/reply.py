"""What a command answers: text for people, or with --json one object for scripts; and its exit code, always honest."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

import typer

if TYPE_CHECKING:
    from rich.console import Console

SUCCESS, FAILED, USER_ERROR, INTERRUPTED = 0, 1, 2, 130
"""Exit codes of every command: done; what was asked for did not work; something given is wrong; Ctrl-C."""


class Reply:
    """Where a command speaks. ``console`` is for people; with ``as_json`` it is standard error, so that standard output
    holds one JSON object and nothing else: what ``add`` was given, "errors" and "exit_code"."""

    def __init__(self, *, as_json: bool = False):
        from rich.console import Console

        self.as_json = as_json
        self.errors = Console(stderr=True, highlight=False)
        self.console: Console = self.errors if as_json else Console(highlight=False)
        self._content: dict[str, object] = {}
        self._errors: list[dict] = []

    def say(self, text: str, style: str = "") -> None:
        from fedpartial.cli.console import say

        say(self.console, text, style)

    def warn(self, text: str) -> None:
        from fedpartial.cli.console import say

        say(self.errors, text, "yellow")

    def fail(self, *faults: object) -> None:
        """Show what is wrong, line by line, and keep it for the JSON object."""
        from fedpartial.cli.console import say_faults

        say_faults(self.errors, faults)
        self._errors += [fault_content(fault) for fault in faults]

    def add(self, **values: object) -> None:
        """Values of the JSON object; paths may be given as they are."""
        self._content |= values

    def end(self, code: int) -> NoReturn:
        """Print the object where it is wanted, and leave the command."""
        if self.as_json:
            content = {**self._content, "errors": self._errors, "exit_code": code}
            typer.echo(json.dumps(content, indent=2, ensure_ascii=False, default=str))
        raise typer.Exit(code)


def fault_content(fault: object) -> dict:
    """A fault as plain values: its message, and of a ConfigError or a Fault of a data set every part."""
    parts = ("where", "file", "site", "field", "got", "expected", "remedy")
    known = {part: getattr(fault, part) for part in parts if getattr(fault, part, None) is not None}
    return {"message": str(fault), **{part: str(value) for part, value in known.items()}}


def answer(as_json: bool, work: Callable[[Reply], int]) -> NoReturn:
    """Do a command's work and end with its exit code."""
    reply = Reply(as_json=as_json)
    reply.end(attempt(work, reply))


def attempt(work: Callable[[Reply], int], reply: Reply) -> int:
    """The exit code of a command's work. A user's mistake is one line for each fault, never a traceback; nor is a disk
    that is full or a folder that may not be written."""
    from fedpartial.cli.refused import Refused
    from fedpartial.errors import ConfigError, DataFaults, NoSpaceLeft

    try:
        return work(reply)
    except (Refused, DataFaults) as refused:
        reply.fail(*refused.faults)
        return USER_ERROR
    except ConfigError as error:
        reply.fail(error)
        return USER_ERROR
    except (OSError, NoSpaceLeft) as error:
        reply.fail(error)
        return FAILED
    except KeyboardInterrupt:
        reply.warn("interrupted")
        return INTERRUPTED
