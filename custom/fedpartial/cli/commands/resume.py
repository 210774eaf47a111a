"""``fedpartial resume``: its options and help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedpartial.cli.options import JsonOption, MinSitesOption, examples
from fedpartial.cli.reply import Reply, answer

EXAMPLES = examples(
    "resume runs/first -o jobs_to_run/first",
    "resume download/7a2c6f0e-1b7d-4a86-9c43-0123456789ab -o bundles/continued --min-sites 3",
)
RUN_HELP = (
    "A downloaded job, a job's folder left at the server, a folder of 'fedpartial run', or a simulator's workspace."
)


def resume(
    run: Annotated[Path, typer.Argument(metavar="RUN", help=RUN_HELP)],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="New folder for the job that continues.")],
    min_sites: MinSitesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the job that continues an interrupted run after its last finished round.

    The result is that of a run without interruption, bit for bit, where every site still has its state.
    Exit codes: 0 the job was written, 2 there is nothing to continue and nothing was written.
    """

    def work(reply: Reply) -> int:
        from fedpartial.cli.resume import resume_run

        return resume_run(run, out, min_sites, reply)

    answer(as_json, work)
