"""``fedpartial run``: its options and help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedpartial.cli.options import (
    NO_LIMIT_MIN,
    FinetuneStepsOption,
    JobArgument,
    JsonOption,
    LocalStepsOption,
    PresetOption,
    RoundsOption,
    SeedOption,
    SettingsOption,
    SiteConfigOption,
    SitesDeviceOption,
    SitesOption,
    StartFromOption,
    ThreadsOption,
    TimeLimitOption,
    examples,
    names,
)
from fedpartial.cli.reply import Reply, answer

EXAMPLES = examples(
    "run condistfl",
    "run condistfl --rounds 2 --local-steps 5 --sites liver,spleen",
    "run jobs/fedavg --preset abdomen --site-config my_sites/ --device cuda --out runs/first",
)
HOME_HELP = (
    "Where the models of a federation that outlives its jobs lie, here and at the sites; by default $FEDPARTIAL_HOME."
)


def run(
    job: JobArgument,
    rounds: RoundsOption = None,
    local_steps: LocalStepsOption = None,
    finetune_steps: FinetuneStepsOption = None,
    start_from: StartFromOption = None,
    sites: SitesOption = None,
    seed: SeedOption = None,
    settings: SettingsOption = None,
    preset: PresetOption = None,
    site_config: SiteConfigOption = None,
    device: SitesDeviceOption = None,
    threads: ThreadsOption = None,
    time_limit: TimeLimitOption = NO_LIMIT_MIN,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="DIR", help="New folder for the results; by default runs/<job>-<time>."),
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show FLARE's own log.")] = False,
    keep_workspace: Annotated[
        bool, typer.Option("--keep-workspace", help="Keep the simulator's workspace after a success too.")
    ] = False,
    home: Annotated[Path | None, typer.Option(metavar="DIR", help=HOME_HELP)] = None,
    as_json: JsonOption = False,
) -> None:
    """Run a job with all its sites on this machine, in FLARE's simulator.

    Job, options and site files are checked before anything runs, images and labels before anything is trained
    ('fedpartial check' does that alone). The job folder is not changed: options apply to a copy.
    Exit codes: 0 report and model were written, 1 the run failed, 2 something given is wrong, 130 Ctrl-C.
    """

    def work(reply: Reply) -> int:
        from fedpartial.cli.run import Options, run_job
        from fedpartial.cli.settings import parse_settings

        options = Options(
            values=parse_settings(settings or []),
            job=job,
            rounds=rounds,
            local_steps=local_steps,
            finetune_steps=finetune_steps,
            start_from=start_from,
            sites=names(sites),
            seed=seed,
            preset=preset,
            site_config=site_config,
            device=device,
            threads=threads,
            time_limit_min=time_limit,
            out=out,
            verbose=verbose,
            keep_workspace=keep_workspace,
            home=home,
        )
        return run_job(options, reply)

    answer(as_json, work)
