"""Time and bytes of every method to a mean external organ Dice: wall clock as it was, and simulated for a bandwidth.

    python benchmarks/time_to_quality.py                          # all methods, the jobs as they are: hours
    python benchmarks/time_to_quality.py condistfl --empty-cache  # the main job as a newcomer runs it
    python benchmarks/time_to_quality.py fedavg --rounds 2 --local-steps 5 -o trial

Runs ``fedpartial run JOB``, keeps the model of every round (watched_run.py), scores all of them on the phantom's
external set after the run (kept_models.py), lesions counted as their organ, and prints Markdown tables of all finished
runs in the output folder. A finished run is not repeated. Wall clock and CPU seconds count from the start of the
command until the server has the model of that round; simulated_time.py says what simulated time is. Without
--empty-cache all cases are prepared before the run starts.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from kept_models import Judge
from measured_legs import measured_legs
from quality_tables import print_tables
from simulated_time import Leg, Share
from watched_run import Moment, watch

from fedpartial.cli.prepare import Options, check
from fedpartial.cli.settings import parse_settings
from fedpartial.evaluation.record import EXTERNAL_ORGANS
from fedpartial.evaluation.summary import macro_mean, statistics
from fedpartial.sites import CACHE_VARIABLE
from fedpartial.training.plan import Plan

ROOT = Path(__file__).resolve().parents[1]
JOBS = (
    *("condistfl", "fedavg", "fedopt", "fedprox", "central", "standalone", "segviz_fedbn", "psmos", "mmds", "fedmenu"),
    *("condistfl_union", "fedavg_plain", "central_plain", "segviz_fedavg", "segviz_fedbn_ft", "segviz_central"),
    *("psmos_central", "psmos_standalone", "mmds_fedavg", "mmds_central"),
)
QUALITY = "quality.json"


def planned(options: Options) -> tuple[Plan, tuple[str, ...]]:
    """The plan of a job with the command line's changes, and its sites."""
    with tempfile.TemporaryDirectory() as name:
        checked = check(options, Path(name), lambda *_: Path(name) / "out")
        return checked.plan, tuple(checked.job.sites)


def measure(job: str, folder: Path, arguments: argparse.Namespace) -> None:
    """Run one job in ``folder`` and write its quality.json there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if arguments.empty_cache:
        os.environ[CACHE_VARIABLE] = str(folder / "cache")
    changes = {"rounds": arguments.rounds, "local_steps": arguments.local_steps}
    values = parse_settings(arguments.set)
    plan, sites = planned(Options(job=str(ROOT / "jobs" / job), values=values, **changes))
    judge = None if arguments.empty_cache else Judge(plan, sites)
    given = [f"--{name.replace('_', '-')}={value}" for name, value in changes.items() if value is not None]
    given += [f"--set={setting}" for setting in arguments.set]
    out, kept = folder / "run", folder / "kept"
    command = [sys.executable, "-m", "fedpartial", "run", str(ROOT / "jobs" / job), "-o", str(out), *given]
    moments, end = watch([*command, "--home", str(folder / "home")], out, kept, os.environ)
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    content = quality(judge or Judge(plan, sites), plan, moments, end, report, kept)
    (folder / QUALITY).write_text(json.dumps({"job": job, **content}, indent=1), encoding="utf-8")
    if arguments.empty_cache:
        shutil.rmtree(folder / "cache")


def quality(judge: Judge, plan: Plan, moments: list[Moment], end: Moment, report: dict, kept: Path) -> dict:
    """Everything that tables and figure need, as plain values."""
    places = [moment.kept for moment in moments if moment.kept]
    if not places:
        raise RuntimeError("the run has written no model that was kept")
    answering = judge.read(kept / places[0])
    alone = len(answering.models) > 1
    pooled = judge.image_bytes() if any(len(session.site.members) > 1 for session in judge.sites.values()) else {}
    legs = measured_legs(
        moments,
        report,
        judge.validation_seconds(kept / places[-1]),
        [plan.is_validated(i) for i in range(plan.num_rounds)],
        exchanged=not alone and not pooled,
    )
    images = Leg(name="images to one place", sites={name: Share(up=size) for name, size in pooled.items()})
    return {
        "plan": plan.to_dict(),
        "commit": report["commit"],
        "precision": sorted(set(report["precision"].values())),
        "points": points(judge, moments, kept),
        "legs": [leg.to_dict() for leg in ([images] if pooled else []) + legs],
        "before": len(pooled) > 0,
        "collect": collect(report, judge, alone=alone).to_dict(),
        "end": asdict(end),
        "report": {
            "organ_dice": macro_mean(report[EXTERNAL_ORGANS]),
            "selected": report["selected_model"],
            "message_bytes": report["exchange"].get("bytes_per_message"),
            "bytes": [report["exchange"]["bytes_up"], report["exchange"]["bytes_down"]],
            "phases": report["phases"],
            "seconds": [given["seconds"] for given in report["rounds"]],
        },
    }


def collect(report: dict, judge: Judge, *, alone: bool) -> Leg:
    """What sends the models to where they answer, where no round has done so: private heads, standalone models."""
    count = report["exchange"].get("heads_bytes_up", 0) // len(judge.sites)
    if alone:
        count = report["exchange"]["bytes_per_message"]
    return Leg(name="collecting models", sites={name: Share(up=count) for name in judge.sites} if count else {})


def points(judge: Judge, moments: list[Moment], kept: Path) -> list[dict]:
    """The score of every kept model that is another one than that of the moment before."""
    found, last = [], None
    for i, moment in enumerate(moments):
        if moment.kept is None:
            continue
        files = sorted(path.stat().st_ino for path in (kept / moment.kept).iterdir())
        if files == last:
            continue
        last = files
        by_organ = judge.organ_dice(judge.read(kept / moment.kept))
        mean = statistics(by_organ.values())["mean"]
        found.append({**asdict(moment), "legs": i + 1, "organ_dice": mean, "by_organ": by_organ})
        print(f"  {moment.name}: organ Dice {mean:.3f} after {moment.seconds:.0f} s", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("jobs", nargs="*", default=JOBS, help="names of job folders")
    parser.add_argument("-o", "--out", type=Path, default=Path("runs/time_to_quality"), help="folder of all runs")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--local-steps", type=int)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="as of fedpartial run")
    parser.add_argument("--empty-cache", action="store_true", help="data are made and prepared within the run")
    parser.add_argument("--target", type=float, default=0.80, help="mean external organ Dice")
    parser.add_argument("--mbit", type=float, nargs="+", default=[10, 100, 1000], help="of each site's line, both ways")
    arguments = parser.parse_args()
    out = arguments.out.absolute()
    for job in arguments.jobs:
        if not (out / job / QUALITY).exists():
            print(job, flush=True)
            measure(job, out / job, arguments)
    found = [json.loads((out / job / QUALITY).read_text()) for job in JOBS if (out / job / QUALITY).exists()]
    print_tables(found, arguments.target, arguments.mbit)


if __name__ == "__main__":
    main()
