"""``fedpartial train-alone``: its options and help."""

from __future__ import annotations

from typing import Annotated

import typer

from fedpartial.cli.options import (
    JobArgument,
    JsonOption,
    LocalStepsOption,
    PresetOption,
    SeedOption,
    SettingsOption,
    SiteConfigOption,
    examples,
)
from fedpartial.cli.reply import Reply, answer

EXAMPLES = examples("train-alone mmds_stage3 --site liver", "train-alone mmds --site north --site-config my_sites/")


def train_alone(
    job: JobArgument,
    site: Annotated[str, typer.Option(metavar="NAME", help="The site's name in that job, one of jobs/mmds*.")],
    site_config: SiteConfigOption = None,
    preset: PresetOption = None,
    local_steps: LocalStepsOption = None,
    seed: SeedOption = None,
    settings: SettingsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a site's own model for MMDS now; the job that later asks for it trains nothing and uploads it.

    Give what the job will have: another preset, length or seed is another model. Interrupted, the same command goes on.
    Exit codes: 0 trained, 1 training failed, 2 something given is wrong, 130 Ctrl-C.
    """

    def work(reply: Reply) -> int:
        from fedpartial.cli.settings import parse_settings
        from fedpartial.cli.train_alone import Request, train_site_alone

        request = Request(
            job=job,
            site=site,
            site_config=site_config,
            preset=preset,
            local_steps=local_steps,
            seed=seed,
            values=parse_settings(settings or []),
        )
        return train_site_alone(request, reply)

    answer(as_json, work)
