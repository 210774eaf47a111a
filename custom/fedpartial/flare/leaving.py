"""What every privacy filter of a site has in common: look at a result, let it pass or let nothing leave.

A site names its filters in its own local/privacy.json. FLARE runs them for every task, whatever it is called, and
before the job's own filters; a job can neither remove nor configure them. They see task results only: fed events,
streams and code that a job brings along (BYOC) are kept out by the site's class_allow_list and authorization.json.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping

from nvflare.apis.dxo import DXO
from nvflare.apis.filter import Filter
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply

from fedpartial.flare.failure import REASON_HEADER

PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,79}")
MAX_DEPTH = 12


class LeavingRefused(ValueError):
    """A result may not leave the site. ``reason`` may; ``detail``, which can hold what was found, may not."""

    def __init__(self, reason: str, detail: object = None):
        self.reason = reason
        super().__init__(reason if detail is None else f"{reason}: {detail!r:.200}")


class LeavingFilter(Filter):
    """A filter on results. Whatever goes wrong in it, FLARE sends a return code without data."""

    def process(self, shareable: Shareable, fl_ctx: FLContext) -> Shareable:
        try:
            return self.passed(shareable)
        except LeavingRefused as refusal:
            # Not an event: a job could forward it.
            self.log_warning(fl_ctx, f"nothing of this result leaves the site: {refusal}", fire_event=False)
            return refused_reply(refusal)

    @abstractmethod
    def passed(self, result: Shareable) -> Shareable:
        """The result as it may leave; raises LeavingRefused."""


def refused_reply(refusal: LeavingRefused) -> Shareable:
    """An answer without data that tells the server why."""
    reply = make_reply(ReturnCode.TASK_RESULT_FILTER_ERROR)
    reply.set_header(REASON_HEADER, f"refused by the site's privacy policy: {refusal.reason}")
    return reply


def shown(name: object) -> str:
    """A tensor's name for a message to the server; one that could be a text of its own is not repeated."""
    return repr(name) if isinstance(name, str) and PLAIN_NAME.fullmatch(name) else "with an unusual name"


def walk(value: object, path: tuple = ()) -> Iterator[tuple[tuple, object]]:
    """(keys that lead to it, value) of everything in a message, containers included."""
    if len(path) > MAX_DEPTH:
        raise LeavingRefused(f"it is nested deeper than {MAX_DEPTH} levels")
    yield path, value
    if isinstance(value, DXO):
        value = value.to_dict()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list | tuple | set | frozenset):
        items = enumerate(value)
    else:
        return
    for key, item in items:
        yield from walk(item, (*path, key))
