"""What ``fedpartial evaluate`` leaves: tables first, so that no picture loses the numbers; then page and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from fedpartial.cli.reply import Reply
from fedpartial.errors import NoSpaceLeft, needs_space
from fedpartial.evaluation.evaluation_files import write_page, write_tables
from fedpartial.evaluation.evaluation_pictures import draw_cases
from fedpartial.evaluation.evaluation_record import Evaluation
from fedpartial.evaluation.evaluation_table import evaluation_table


def present(evaluation: Evaluation, out: Path, reply: Reply) -> None:
    """Write the files into a folder that exists, show the table and what must be known of it.

    Raises OSError or NoSpaceLeft where that fails; what was written until then stays.
    """
    with needs_space("the tables", out):
        tables = write_tables(evaluation, out)
    reply.console.print(evaluation_table(evaluation))
    for note in evaluation.notes():
        reply.say(note)
    reply.add(**evaluation.to_json(), files=_listed(asdict(tables)))
    try:
        with needs_space("page and pictures", out):
            overlays, missing = draw_cases(evaluation)
            page = write_page(evaluation, out, overlays)
    except (OSError, NoSpaceLeft, KeyboardInterrupt):
        reply.warn(f"no page or pictures; the numbers are complete: {tables.json}")
        raise
    for fault in missing:
        reply.warn(f"not drawn: {fault}")
    reply.say(f"page: {page.html}")
    reply.add(files=_listed(asdict(tables) | asdict(page)))


def _listed(paths: Mapping[str, Path | tuple[Path, ...]]) -> dict[str, object]:
    return {kind: str(found) if isinstance(found, Path) else list(map(str, found)) for kind, found in paths.items()}
