"""The server's images without labels before a run: a job that distils cannot do without them."""

from __future__ import annotations

from fedpartial.cli.job_folder import Job
from fedpartial.cli.site_check import MAX_SHOWN, SiteFolder, check_device
from fedpartial.distillation.public_volumes import listed_images
from fedpartial.errors import ConfigError
from fedpartial.sites import PUBLIC, SiteConfig, SitePool, read_public, site_file
from fedpartial.training.plan import Plan

STEPS = "distil_steps"


def check_public(
    job: Job, plan: Plan, sites: list[SiteConfig | SitePool], files: SiteFolder, device: str | None
) -> tuple[list[SiteConfig], list[ConfigError]]:
    """The public images' site file, where the job distils and there is one, and what is wrong with it.

    Without a file the phantom's images are taken, if the sites are the phantom's. device: of --device, which holds in
    the place of the file's and is checked with the sites.
    """
    if not plan.federation or not job.server.get(STEPS):
        return [], []
    phantom = any(site.source == "phantom" for site in sites)
    if phantom and not site_file(files.config_dir, PUBLIC).exists():
        return [], []
    try:
        site = read_public(files.config_dir, plan.config.label_space.classes, phantom=phantom)
        if device is None:
            check_device(site.device, site.where)
        missing = [path for path in listed_images(site) if not path.is_file()]
    except ConfigError as error:
        return [], [files.fault(PUBLIC, error)]
    return [site], [files.fault(PUBLIC, _missing(site, str(path), len(missing))) for path in missing[:MAX_SHOWN]]


def _missing(site: SiteConfig, path: str, count: int) -> ConfigError:
    remedy = "There is no such file: correct the datalist or restore it."
    expected = f"an existing NIfTI file ({count} are missing)"
    return ConfigError(where=str(site.datalist), field="training", got=path, expected=expected, remedy=remedy)
