"""``fedpartial predict``: label maps of images, folders and DICOM series; what is done is remembered."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedpartial import __version__
from fedpartial.cli.reply import SUCCESS, USER_ERROR, Reply
from fedpartial.data.file_names import LABELS, SUFFIXES, stem_of
from fedpartial.errors import FULL, ConfigError, DataFaults, NoSpaceLeft

if TYPE_CHECKING:
    from fedpartial.cli.predict_scan import Job
    from fedpartial.inference.inputs import Scan
    from fedpartial.inference.predictor import Predictor
    from fedpartial.networks.fusion import Fusion


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user asks for; see cli/commands/predict.py."""

    model: Path
    inputs: tuple[Path, ...]
    out: Path
    device: str = "auto"
    rule: str | None = None
    priority: tuple[str, ...] | None = None
    local: Path | None = None
    pictures: bool = False
    save_image: bool = False
    force: bool = False


def predict_all(request: Request, reply: Reply) -> int:
    """Segment every scan; a wrong one is named and the others are still done."""
    from fedpartial.cli.predict_scan import save_viewer_colours
    from fedpartial.inference.inputs import find_scans
    from fedpartial.inference.predictor import Predictor

    fusion = chosen_fusion(request.rule, request.priority)
    scans, faults = find_scans(request.inputs)
    check_single(request.out, several=len(scans) + len(faults) > 1)
    single = is_file(request.out, several=len(scans) > 1)
    targets = {scan.name: target_path(Path(scan.name), request.out, several=len(scans) > 1) for scan in scans}
    check_out(request, scans, targets)
    reply.fail(*faults)
    predictor = Predictor(request.model, device=request.device, fusion=fusion, local_path=request.local)
    if predictor.remark:
        reply.warn(predictor.remark)
    job = open_job(request, predictor, single, reply)
    check_writable(request.out.parent if single else request.out)
    if job.journal:
        if request.out.resolve() in {scan.path.resolve().parent for scan in scans}:
            reply.warn(f"{request.out} holds the images too: its label maps will lie among them")
        if not request.force:
            for scan in scans:
                job.journal.check(scan.name, scan.source, scan.stamp, job.made_with)
        save_viewer_colours(job, request.out)
    wrong = segment_all(job, scans, targets)
    return USER_ERROR if faults or wrong else SUCCESS


def segment_all(job: Job, scans: Sequence[Scan], targets: Mapping[str, Path]) -> int:
    """Segment what is not done yet; returns how many scans are wrong. Whatever ends it, what is done is reported."""
    from fedpartial.cli.predict_scan import complete, finished, listed, segment_scan

    wrong, results, before = 0, [], [scan for scan in scans if finished(scan, job)]
    if before:
        job.reply.say(f"{len(before)} of {len(scans)} done before")
    try:
        with progress_bar(job.reply, scans) as advance:
            for scan in scans:
                try:
                    target = targets[scan.name]
                    old = finished(scan, job)
                    done = complete(scan, old, target, job) if old else segment_scan(scan, target, job, advance)
                    results.append(listed(scan, done, target.parent))
                except (ConfigError, DataFaults) as error:
                    job.reply.fail(*getattr(error, "faults", [error]))
                    wrong += 1
                advance(scan, 1, 1)
    finally:
        job.reply.add(scans=results, done_before=len(before))
        if len(results) + wrong < len(scans) and job.journal:
            job.reply.warn(f"{len(results)} of {len(scans)} done; the same command goes on with the others")
    return wrong


@contextmanager
def progress_bar(reply: Reply, scans: Sequence[Scan]) -> Iterator[Callable[[Scan, int, int], None]]:
    """One bar over all scans; advance(scan, done, all) says how far one of them is."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.fields[nth]} of {task.total}: {task.description}"), BarColumn())
    nth = {scan.name: number for number, scan in enumerate(scans)}
    with Progress(*columns, TimeRemainingColumn(), console=reply.console) as bar:
        task = bar.add_task(scans[0].name, total=len(scans), nth=1)

        def advance(scan: Scan, done: int, windows: int) -> None:
            part = nth[scan.name] + done / windows
            bar.update(task, completed=part, description=scan.name, nth=nth[scan.name] + 1)

        yield advance


def chosen_fusion(rule: str | None, priority: tuple[str, ...] | None) -> Fusion | None:
    """What --fusion and --priority say; None when neither is given."""
    from fedpartial.networks.fusion import Fusion

    if rule is None and priority is None:
        return None
    return Fusion(rule=rule or "log-odds", priority=priority or ())


def fusion_text(fusion: Fusion) -> str:
    """A rule with the options that matter to it."""
    if fusion.rule == "uncertainty":
        return f"uncertainty of {fusion.passes} passes, dropout {fusion.dropout}, seed {fusion.seed}"
    return " ".join((fusion.rule, *([",".join(fusion.priority)] if fusion.priority else [])))


def target_path(image: Path, out: Path, *, several: bool) -> Path:
    """Where the label map of ``image`` goes."""
    return out if is_file(out, several=several) else out / f"{stem_of(image.name)}{LABELS}.nii.gz"


def is_file(out: Path, *, several: bool) -> bool:
    """Whether --out names the label map itself."""
    return out.name.endswith(SUFFIXES) and not several and not out.is_dir()


def check_single(out: Path, *, several: bool) -> None:
    """ConfigError where --out names one label map for several images."""
    if several and out.name.endswith(SUFFIXES) and not out.is_dir():
        raise _wrong_out(out, "one file for several inputs", "a folder", "Several inputs need a folder.")


def check_writable(folder: Path) -> None:
    """ConfigError where nothing can be written into a folder; it is made where it is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return
    except OSError as error:
        if error.errno in FULL:
            raise NoSpaceLeft("label maps", folder) from error
        remedy = "Name another folder, or ask for the right to write there."
        got = f"{error.strerror} ({type(error).__name__})"
        raise _wrong_out(folder, got, "a folder in which you may write", remedy) from error


def check_out(request: Request, scans: Sequence[Scan], targets: Mapping[str, Path]) -> None:
    """ConfigError where a label map would replace an image, or anything else that is not ours."""
    from fedpartial.data.label_names import is_label_map

    folder = request.out.parent if is_file(request.out, several=len(scans) > 1) else request.out
    if folder.exists() and not folder.is_dir():
        raise _wrong_out(folder, "a file", "a folder for several label maps", "Give another name.")
    images = {file.resolve() for scan in scans for file in scan.files}
    for target in targets.values():
        if target.resolve() in images:
            remedy = "The label map would replace the image."
            raise _wrong_out(target, str(target), "another path than the image's", remedy)
        if target.exists() and not is_label_map(target) and not request.force:
            expected, remedy = "a new file, or a label map of fedpartial", "Give --force to replace it."
            raise _wrong_out(target, "a file that something else has written", expected, remedy)


def open_job(request: Request, predictor: Predictor, single: bool, reply: Reply) -> Job:
    """What all scans have in common; with a folder for --out also its journal."""
    from fedpartial.cli.predict_scan import Job
    from fedpartial.inference.journal import file_sha256, open_journal

    made_with = {
        "model": file_sha256(request.model),
        "local": None if request.local is None else file_sha256(request.local),
        "fusion": fusion_text(predictor.fusion),
        "preset": predictor.preset.name,
        "version": __version__,
    }
    return Job(
        predictor=predictor,
        model=request.model,
        made_with=made_with,
        journal=None if single else open_journal(request.out),
        pictures=request.pictures,
        save_image=request.save_image,
        force=request.force,
        reply=reply,
    )


def _wrong_out(where: object, got: str, expected: str, remedy: str) -> ConfigError:
    return ConfigError(where="--out", field=str(where), got=got, expected=expected, remedy=remedy)
