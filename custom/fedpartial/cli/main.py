"""The command ``fedpartial``. Heavy imports (torch, FLARE) are made by the commands that need them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from fedpartial import __version__
from fedpartial.cli.store import store_app

app = typer.Typer(
    name="fedpartial",
    help="Federated 3D segmentation from partially labelled hospitals, as NVIDIA FLARE jobs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.add_typer(store_app)

RUN_EXAMPLE = """
[bold]Examples[/bold]

  fedpartial run condistfl

  fedpartial run condistfl --rounds 2 --local-steps 5 --sites liver,spleen

  fedpartial run jobs/fedavg --preset abdomen --site-config my_sites/ --device cuda --out runs/first
"""

DEVICE_HELP = "Torch device for every site: cpu, cuda, cuda:1 ... With a cuda device the sites take turns on it."
SET_HELP = "A top-level value of the job's config_fed_server.json, for example pretrain_rounds=0; may be repeated."
LOCAL_HELP = (
    "A site's own MMDS model. It answers for the classes it has, MODEL for the others; where both claim a voxel the "
    "local model wins, but for a lesion of MODEL inside its organ, which is shown."
)
HOME_HELP = (
    "Where the models of a federation that outlives its jobs lie, here and at the sites; by default $FEDPARTIAL_HOME."
)
THREADS_HELP = "Sites that run at a time; by default all that fit into memory, and 1 with --device cuda."

COMPARE_EXAMPLE = """
[bold]Examples[/bold]

  fedpartial compare fedavg condistfl -o comparisons/first

  fedpartial compare fedavg condistfl --seeds 0,1 --rounds 4 --local-steps 30 --device cuda -o comparisons/short

  fedpartial compare --plan benchmarks/plans/condistfl_table.json -o comparisons/table
"""

BUNDLE_EXAMPLE = """
[bold]Examples[/bold]

  fedpartial bundle condistfl -o bundles/condistfl

  fedpartial bundle condistfl -o bundles/shipped --code shipped

  fedpartial bundle jobs/fedavg -o bundles/first --preset abdomen --sites north,south,west --min-sites 2
"""

RESUME_EXAMPLE = """
[bold]Examples[/bold]

  fedpartial resume runs/first -o jobs_to_run/first

  fedpartial resume download/7a2c6f0e-1b7d-4a86-9c43-0123456789ab -o bundles/continued --min-sites 3
"""

PREDICT_EXAMPLE = """
[bold]Examples[/bold]

  fedpartial predict runs/first/best_global_model.safetensors ct.nii.gz -o labels.nii.gz

  fedpartial predict runs/first/best_global_model.safetensors scans/*.nii.gz -o labels/

  fedpartial predict runs/segviz/global_model.safetensors ct.nii.gz -o labels/ --fusion per-head

  fedpartial predict global_model.safetensors ct.nii.gz --local local_model.safetensors -o labels.nii.gz
"""

SETUP_KIT_EXAMPLE = """
[bold]Examples[/bold]

  fedpartial setup-kit kits/server

  fedpartial setup-kit kits/liver --site-file liver.json

  fedpartial setup-kit kits/liver --policy byoc
"""


def _settings(texts: list[str] | None) -> dict[str, object]:
    """The values of --set; a wrong one ends the command as any other wrong option does."""
    from fedpartial.cli.settings import parse_settings
    from fedpartial.errors import ConfigError

    try:
        return parse_settings(texts or [])
    except ConfigError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fedpartial {__version__}")
        raise typer.Exit


@app.callback()
def fedpartial(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Federated 3D segmentation from partially labelled hospitals, as NVIDIA FLARE jobs."""


@app.command(epilog=RUN_EXAMPLE)
def run(
    job: Annotated[str, typer.Argument(metavar="JOB", help="A job folder, or the name of one under jobs/.")],
    rounds: Annotated[
        int | None, typer.Option(min=0, help="Rounds instead of the job's; 0 trains nothing and needs --start-from.")
    ] = None,
    local_steps: Annotated[int | None, typer.Option(min=1, help="Local steps per round instead of the job's.")] = None,
    finetune_steps: Annotated[int | None, typer.Option(min=0, help="Steps of a job that fine-tunes its heads.")] = None,
    start_from: Annotated[
        Path | None, typer.Option(metavar="MODEL", help="A model to start from; with private heads its shared part.")
    ] = None,
    sites: Annotated[str | None, typer.Option(metavar="A,B,...", help="Sites instead of the job's.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed instead of the job's.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help=SET_HELP)] = None,
    preset: Annotated[
        str | None, typer.Option(help="Preset instead of the job's; brings its own rounds, steps and phases.")
    ] = None,
    site_config: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder with <site>.json or sites/<site>.json; other sites use the phantom."),
    ] = None,
    device: Annotated[str | None, typer.Option(help=DEVICE_HELP)] = None,
    threads: Annotated[int | None, typer.Option(min=1, help=THREADS_HELP)] = None,
    time_limit: Annotated[
        float, typer.Option(min=0.01, metavar="MINUTES", help="End the run when it takes longer.")
    ] = 24 * 60.0,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="DIR", help="New folder for the results; by default runs/<job>-<time>."),
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show FLARE's own log.")] = False,
    keep_workspace: Annotated[
        bool, typer.Option("--keep-workspace", help="Keep the simulator's workspace after a success too.")
    ] = False,
    home: Annotated[Path | None, typer.Option(metavar="DIR", help=HOME_HELP)] = None,
) -> None:
    """Run a job with all its sites on this machine, in FLARE's simulator.

    Everything is checked before anything runs. The job folder is not changed: options apply to a copy.
    Exit codes: 0 report and model were written, 1 the run failed, 2 something given is wrong, 130 Ctrl-C.
    """
    from rich.console import Console

    from fedpartial.cli.run import Options, run_job

    options = Options(
        values=_settings(settings),
        job=job,
        rounds=rounds,
        local_steps=local_steps,
        finetune_steps=finetune_steps,
        start_from=start_from,
        sites=None if sites is None else tuple(name.strip() for name in sites.split(",")),
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
    raise typer.Exit(run_job(options, Console(highlight=False), Console(stderr=True, highlight=False)))


@app.command(epilog=COMPARE_EXAMPLE, no_args_is_help=True)
def compare(
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="DIR", help="Folder for runs and comparison; an earlier one goes on.")
    ],
    jobs: Annotated[
        list[str] | None, typer.Argument(metavar="JOB...", help="Job folders, or names of folders under jobs/.")
    ] = None,
    plan: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Instead of JOBs: a JSON file with runs, seeds and settings.")
    ] = None,
    seeds: Annotated[str | None, typer.Option(metavar="0,1,...", help="Seeds of every job; by default 0,1,2.")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds instead of the jobs'.")] = None,
    local_steps: Annotated[int | None, typer.Option(min=1, help="Local steps per round instead of the jobs'.")] = None,
    preset: Annotated[
        str | None, typer.Option(help="Preset instead of the jobs'; brings its own rounds, steps and phases.")
    ] = None,
    sites: Annotated[str | None, typer.Option(metavar="A,B,...", help="Sites instead of the jobs'.")] = None,
    site_config: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder with <site>.json or sites/<site>.json; other sites use the phantom."),
    ] = None,
    device: Annotated[str | None, typer.Option(help=DEVICE_HELP)] = None,
    threads: Annotated[int | None, typer.Option(min=1, help=THREADS_HELP)] = None,
    time_limit: Annotated[float, typer.Option(min=0.01, metavar="MINUTES", help="End a run when it takes longer.")] = 24
    * 60.0,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show the progress of every run, line by line.")] = False,
) -> None:
    """Run jobs with several seeds one after the other, and compare their scores, costs and predictions.

    The same command goes on where an earlier one ended: finished runs are not repeated, others start again. The
    comparison is written after every run. Exit codes: 0 all runs are finished and compared, 1 a run failed,
    2 something given is wrong and nothing was run, 130 Ctrl-C.
    """
    from rich.console import Console

    from fedpartial.cli.compare import CompareOptions, compare_jobs

    options = CompareOptions(
        out=out,
        jobs=tuple(jobs or ()),
        plan=plan,
        seeds=seeds,
        rounds=rounds,
        local_steps=local_steps,
        preset=preset,
        sites=None if sites is None else tuple(name.strip() for name in sites.split(",")),
        site_config=site_config,
        device=device,
        threads=threads,
        time_limit_min=time_limit,
        verbose=verbose,
    )
    raise typer.Exit(compare_jobs(options, Console(highlight=False), Console(stderr=True, highlight=False)))


@app.command(epilog=BUNDLE_EXAMPLE)
def bundle(
    job: Annotated[str, typer.Argument(metavar="JOB", help="A job folder, or the name of one under jobs/.")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="New folder for the job to submit.")],
    code: Annotated[
        Literal["installed", "shipped"],
        typer.Option(
            help="installed: server and sites have fedpartial, the job holds no code. shipped: the job brings "
            "fedpartial itself (BYOC); what fedpartial needs (requirements.txt) must be installed there all the same."
        ),
    ] = "installed",
    preset: Annotated[
        str | None, typer.Option(help="Preset instead of the job's; brings its own rounds, steps and phases.")
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(min=0, help="Rounds instead of the job's; 0 trains nothing and needs --start-from.")
    ] = None,
    local_steps: Annotated[int | None, typer.Option(min=1, help="Local steps per round instead of the job's.")] = None,
    finetune_steps: Annotated[int | None, typer.Option(min=0, help="Steps of a job that fine-tunes its heads.")] = None,
    start_from: Annotated[
        Path | None, typer.Option(metavar="MODEL", help="A model to start from; with private heads its shared part.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed instead of the job's.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help=SET_HELP)] = None,
    sites: Annotated[str | None, typer.Option(metavar="A,B,...", help="Sites instead of the job's.")] = None,
    min_sites: Annotated[
        int | None, typer.Option(min=1, metavar="K", help="Sites that must take part; by default all.")
    ] = None,
) -> None:
    """Write the job folder to submit to a federation: checked, with its options, and with a manifest of its code.

    Server and sites compare the code they run with the manifest; one with other code refuses and is named.
    Exit codes: 0 the bundle was written, 2 something given is wrong and nothing was written.
    """
    from rich.console import Console

    from fedpartial.cli.bundle import Options, bundle_job

    options = Options(
        values=_settings(settings),
        job=job,
        out=out,
        code=code,
        preset=preset,
        rounds=rounds,
        local_steps=local_steps,
        finetune_steps=finetune_steps,
        start_from=start_from,
        seed=seed,
        sites=None if sites is None else tuple(name.strip() for name in sites.split(",")),
        min_sites=min_sites,
    )
    raise typer.Exit(bundle_job(options, Console(highlight=False), Console(stderr=True, highlight=False)))


@app.command(epilog=RESUME_EXAMPLE)
def resume(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            help="A downloaded job, a job's folder left at the server, a folder of 'fedpartial run', or a simulator's "
            "workspace.",
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="New folder for the job that continues.")],
    min_sites: Annotated[
        int | None, typer.Option(min=1, metavar="K", help="Sites that must take part from now on.")
    ] = None,
) -> None:
    """Write the job that continues an interrupted run after its last finished round.

    The result is that of a run without interruption, bit for bit, where every site still has its state.
    Exit codes: 0 the job was written, 2 there is nothing to continue and nothing was written.
    """
    from rich.console import Console

    from fedpartial.cli.resume import resume_run

    raise typer.Exit(resume_run(run, out, min_sites, Console(highlight=False), Console(stderr=True, highlight=False)))


@app.command()
def train_alone(
    job: Annotated[str, typer.Argument(help="A job of MMDS, by name or folder, for example mmds_stage2.")],
    site: Annotated[str, typer.Option(help="The site's name in that job.")],
    site_config: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder with <site>.json.")] = None,
    preset: Annotated[str | None, typer.Option(help="The preset that the job will have.")] = None,
    local_steps: Annotated[int | None, typer.Option(min=1, help="The local steps that the job will have.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="The seed that the job will have.")] = None,
    values: Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help=SET_HELP)] = None,
) -> None:
    """Train a site's own model for MMDS now; the job that later asks for it trains nothing and uploads it.

    Interrupted, the same command goes on. Exit codes: 0 trained, 1 training failed, 2 something given is wrong.
    """
    from rich.console import Console

    from fedpartial.cli.train_alone import Request, train_site_alone

    request = Request(
        job=job,
        site=site,
        site_config=site_config,
        preset=preset,
        local_steps=local_steps,
        seed=seed,
        values=_settings(values),
    )
    raise typer.Exit(train_site_alone(request, Console(highlight=False), Console(stderr=True, highlight=False)))


@app.command(epilog=PREDICT_EXAMPLE)
def predict(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A global model that a run has written.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="NIfTI images.")],
    out: Annotated[
        Path, typer.Option("-o", "--out", help="The label map to write, or a folder for <image>_labels.nii.gz.")
    ],
    device: Annotated[str, typer.Option(help="Torch device: auto, cpu, cuda ...")] = "auto",
    fusion: Annotated[
        Literal["log-odds", "priority", "uncertainty", "per-head"] | None,
        typer.Option(
            help="How the private heads of a SegViz model become labels: the highest log-odds (default), the first "
            "class of --priority, heads weighed by their uncertainty under dropout, or one file for each class, in "
            "which organs may overlap."
        ),
    ] = None,
    priority: Annotated[
        str | None,
        typer.Option(metavar="CLASS,...", help="With --fusion priority: the first one that is found wins a voxel."),
    ] = None,
    local: Annotated[Path | None, typer.Option(metavar="MODEL", help=LOCAL_HELP)] = None,
) -> None:
    """Segment images with a trained model; label maps have the grid of their images.

    Exit codes: 0 every image was segmented, 2 something given is wrong.
    """
    from rich.console import Console

    from fedpartial.cli.predict import predict_images

    plain, errors = Console(highlight=False), Console(stderr=True)
    raise typer.Exit(predict_images(model, images, out, device, fusion, priority, plain, errors, local))


@app.command(epilog=SETUP_KIT_EXAMPLE)
def setup_kit(
    kit: Annotated[Path, typer.Argument(metavar="KIT", help="A startup kit of the server or a site, unpacked.")],
    policy: Annotated[
        str, typer.Option(metavar="NAME|DIR", help="reviewed, byoc or another of provision/policy, or a folder.")
    ] = "reviewed",
    site_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The site's file; without it a phantom site uses the phantom.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace edited files, and take a policy that keeps less.")
    ] = False,
) -> None:
    """Give a FLARE startup kit this project's policy, and a site its site file.

    Writes into the kit's local/ folder only. Exit codes: 0 done, 2 something given is wrong; then nothing is written.
    """
    from rich.console import Console

    from fedpartial.cli.kit import setup_kit

    plain, errors = Console(highlight=False), Console(stderr=True, highlight=False)
    raise typer.Exit(setup_kit(kit, policy, site_file, force, plain, errors))
