"""``fedpartial bundle``: its options and help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from fedpartial.cli.options import (
    FinetuneStepsOption,
    JobArgument,
    JsonOption,
    LocalStepsOption,
    MinSitesOption,
    PresetOption,
    RoundsOption,
    SeedOption,
    SettingsOption,
    SitesOption,
    StartFromOption,
    examples,
    names,
)
from fedpartial.cli.reply import Reply, answer

EXAMPLES = examples(
    "bundle condistfl -o bundles/condistfl",
    "bundle condistfl -o bundles/shipped --code shipped",
    "bundle jobs/fedavg -o bundles/first --preset abdomen --sites north,south,west --min-sites 2",
)
CODE_HELP = (
    "installed: server and sites have fedpartial, the job holds no code. shipped: the job brings fedpartial itself "
    "(BYOC); what fedpartial needs (requirements.txt) must be installed there all the same."
)


def bundle(
    job: JobArgument,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="New folder for the job to submit.")],
    code: Annotated[Literal["installed", "shipped"], typer.Option(help=CODE_HELP)] = "installed",
    preset: PresetOption = None,
    rounds: RoundsOption = None,
    local_steps: LocalStepsOption = None,
    finetune_steps: FinetuneStepsOption = None,
    start_from: StartFromOption = None,
    seed: SeedOption = None,
    settings: SettingsOption = None,
    sites: SitesOption = None,
    min_sites: MinSitesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the job folder to submit to a federation: checked, with its options, and with a manifest of its code.

    Server and sites compare the code they run with the manifest; one with other code refuses and is named.
    Exit codes: 0 the bundle was written, 2 something given is wrong and nothing was written.
    """

    def work(reply: Reply) -> int:
        from fedpartial.cli.bundle import Options, bundle_job
        from fedpartial.cli.settings import parse_settings

        options = Options(
            values=parse_settings(settings or []),
            job=job,
            out=out,
            code=code,
            preset=preset,
            rounds=rounds,
            local_steps=local_steps,
            finetune_steps=finetune_steps,
            start_from=start_from,
            seed=seed,
            sites=names(sites),
            min_sites=min_sites,
        )
        return bundle_job(options, reply)

    answer(as_json, work)
