"""``fedpartial compare``: its options and help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedpartial.cli.completion import job_names
from fedpartial.cli.options import (
    NO_LIMIT_MIN,
    JsonOption,
    LocalStepsOption,
    PresetOption,
    SiteConfigOption,
    SitesDeviceOption,
    SitesOption,
    ThreadsOption,
    TimeLimitOption,
    examples,
    names,
)
from fedpartial.cli.reply import Reply, answer

EXAMPLES = examples(
    "compare fedavg condistfl -o comparisons/first",
    "compare fedavg condistfl --seeds 0,1 --rounds 4 --local-steps 30 --device cuda -o comparisons/short",
    "compare --plan benchmarks/plans/condistfl_table.json -o comparisons/table",
)


def compare(
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="DIR", help="Folder for runs and comparison; an earlier one goes on.")
    ],
    jobs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="JOB...", help="Job folders, or names of folders under jobs/.", autocompletion=job_names
        ),
    ] = None,
    plan: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Instead of JOBs: a JSON file with runs, seeds and settings.")
    ] = None,
    seeds: Annotated[str | None, typer.Option(metavar="0,1,...", help="Seeds of every job; by default 0,1,2.")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds instead of the jobs'.")] = None,
    local_steps: LocalStepsOption = None,
    preset: PresetOption = None,
    sites: SitesOption = None,
    site_config: SiteConfigOption = None,
    device: SitesDeviceOption = None,
    threads: ThreadsOption = None,
    time_limit: TimeLimitOption = NO_LIMIT_MIN,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show the progress of every run, line by line.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run jobs with several seeds one after the other, and compare their scores, costs and predictions.

    The same command goes on where an earlier one ended: finished runs are not repeated, others start again. The
    comparison is written after every run. Exit codes: 0 all runs are finished and compared, 1 a run failed,
    2 something given is wrong and nothing was run, 130 Ctrl-C.
    """

    def work(reply: Reply) -> int:
        from fedpartial.cli.compare import CompareOptions, compare_jobs

        options = CompareOptions(
            out=out,
            jobs=tuple(jobs or ()),
            plan=plan,
            seeds=seeds,
            rounds=rounds,
            local_steps=local_steps,
            preset=preset,
            sites=names(sites),
            site_config=site_config,
            device=device,
            threads=threads,
            time_limit_min=time_limit,
            verbose=verbose,
        )
        return compare_jobs(options, reply)

    answer(as_json, work)
