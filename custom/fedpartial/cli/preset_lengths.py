"""Which rounds, steps and phases of a job change with its preset."""

from __future__ import annotations

from collections.abc import Mapping

from fedpartial.cli.job_folder import Job
from fedpartial.cli.settings import option_for
from fedpartial.errors import ConfigError
from fedpartial.presets import PRESETS, Preset, get_preset

ALWAYS = ("num_rounds", "local_steps")
LENGTHS = (*ALWAYS, "finetune_steps", "pretrain_rounds", "distil_steps")
BROUGHT = (*LENGTHS, "validate_every")
"""What a preset was sized for and a job states; not every job has the last ones."""


def values_of_preset(job: Job, values: Mapping[str, object]) -> dict[str, object]:
    """What the preset in ``values`` brings beside itself: its rounds, steps and phases, as far as the job has them.

    They replace those of the preset that the job was written for. A job with lengths of its own (half as many rounds of
    longer steps, one phase alone) keeps them with its own preset, and with another one they must be in ``values``:
    ConfigError.
    """
    asked, own = str(values["preset"]), job.server.get("preset")
    if asked == own:
        return {}
    if own in PRESETS and not _differing(job, get_preset(own)):
        preset = get_preset(asked)
        return {name: getattr(preset, name) for name in BROUGHT if name in ALWAYS or name in job.server}
    missing = [name for name in LENGTHS if (name in ALWAYS or name in job.server) and name not in values]
    if missing:
        raise _missing_error(job, asked, missing)
    return {}


def _differing(job: Job, preset: Preset) -> list[str]:
    return [n for n in LENGTHS if (n in ALWAYS or n in job.server) and job.server.get(n) != getattr(preset, n)]


def _missing_error(job: Job, asked: str, missing: list[str]) -> ConfigError:
    return ConfigError(
        where="--preset",
        field="preset",
        got=asked,
        expected=f"{', '.join(missing)} beside it: {job.name} has other lengths than its own preset "
        f"{job.server.get('preset')!r}, so those of {asked!r} do not replace them",
        remedy=f"Give {', '.join(map(option_for, missing))} as well.",
    )
