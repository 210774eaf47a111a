"""One scan of ``fedpartial predict``: segmented, measured, drawn, written and remembered."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from fedpartial.cli.reply import Reply
from fedpartial.data.file_names import LABELS, stem_of
from fedpartial.data.preprocess import Volume
from fedpartial.errors import ConfigError
from fedpartial.inference.inputs import Scan
from fedpartial.inference.journal import Done, Journal
from fedpartial.inference.label_file import replacing, save_colours, save_image, save_label
from fedpartial.inference.predictor import Predictor, class_path
from fedpartial.inference.volumes import volumes_ml

LABEL_FILES, IMAGE, PICTURE = "labels", "image", "picture"
COLOURS = "labels"


@dataclass(frozen=True, kw_only=True)
class Job:
    """What all scans have in common. journal: of the output folder; None where --out is one file."""

    predictor: Predictor
    model: Path
    made_with: dict
    journal: Journal | None
    pictures: bool
    save_image: bool
    force: bool
    reply: Reply

    @property
    def per_head(self) -> bool:
        return self.predictor.fusion.rule == "per-head"

    @cached_property
    def names(self) -> dict[int, str]:
        """Value of the label map, or number of the mask -> class."""
        return self.predictor.per_head_names if self.per_head else self.predictor.names


def finished(scan: Scan, job: Job) -> Done | None:
    """What an earlier run has done; None where the scan must be segmented."""
    if job.journal is None or job.force:
        return None
    return job.journal.finished(scan.name, scan.source, scan.stamp, job.made_with)


def complete(scan: Scan, done: Done, target: Path, job: Job) -> Done:
    """Add the image and the picture of a segmented scan, where they are asked for and were not written then."""
    if missing := {kind for kind in _wanted(scan, job) if not job.journal.has(done, kind)}:
        label = _read([job.journal.folder / name for name in done.files[LABEL_FILES]], job)
        files = _extras(scan, scan.load(), label, target, missing, job)
        done = replace(done, files={**done.files, **files})
        _remember(scan, done, job)
    return done


def _wanted(scan: Scan, job: Job) -> set[str]:
    """The kinds of files beside label maps."""
    kinds = {IMAGE: job.save_image and scan.series is not None, PICTURE: job.pictures}
    return {kind for kind, wanted in kinds.items() if wanted}


def segment_scan(scan: Scan, target: Path, job: Job, advance: Callable[[Scan, int, int], None]) -> Done:
    """Segment a scan and write everything that is asked for. Raises DataFaults for an image that cannot be read."""
    start, stamp = time.monotonic(), scan.stamp
    volume = scan.load()
    if scan.remark:
        job.reply.warn(scan.remark)
    if volume.array.min() >= 0:
        job.reply.warn(f"{scan.path}: no value below 0; is this CT in Hounsfield units?")
    label = _segmented(scan, volume, job, partial(advance, scan))
    volumes = volumes_ml(label, volume.affine, job.names)
    files = {LABEL_FILES: _write(scan, label, volume, target, job)}
    files |= _extras(scan, volume, label, target, _wanted(scan, job), job)
    seconds = round(time.monotonic() - start, 2)
    done = Done(
        input=scan.source, stamp=stamp, made_with=job.made_with, files=files, volumes_ml=volumes, seconds=seconds
    )
    _remember(scan, done, job)
    found = ", ".join(f"{name} {ml:.1f} ml" for name, ml in volumes.items() if ml) or "nothing found"
    job.reply.say(f"{target if not job.per_head else target.parent}: {found} ({seconds:.0f} s)")
    return done


def _segmented(scan: Scan, volume: Volume, job: Job, progress: Callable[[int, int], None]) -> np.ndarray:
    """The predictor's answer; ConfigError for a volume that does not fit into memory."""
    import torch

    try:
        return job.predictor.segment(volume, progress)
    except (MemoryError, torch.cuda.OutOfMemoryError) as error:
        raise ConfigError(
            where=str(scan.path),
            field="size",
            got=" x ".join(str(n) for n in volume.array.shape),
            expected="a volume that fits into memory",
            remedy="Close other programs, or give --device cpu where it was the GPU's.",
        ) from error


def listed(scan: Scan, done: Done, folder: Path) -> dict:
    """A scan of the JSON object."""
    files = {kind: [str(folder / name) for name in names] for kind, names in done.files.items()}
    parts = {"name": scan.name, "input": str(scan.path), "files": files}
    return {**parts, "volumes_ml": dict(done.volumes_ml), "seconds": done.seconds}


def _remember(scan: Scan, done: Done, job: Job) -> None:
    """Journal, volumes and colours of the folder, after every scan: an interruption loses nothing."""
    if job.journal is None:
        return
    job.journal.record(scan.name, done, job.names.values())


def save_viewer_colours(job: Job, folder: Path) -> None:
    """Colours of the label maps, or of each mask, in which the class has the value 1."""
    if not job.per_head:
        save_colours(folder, COLOURS, job.names)
        return
    for name in job.names.values():
        save_colours(folder, f"{name}_{COLOURS}", {1: name})


def _write(scan: Scan, label: np.ndarray, volume: Volume, target: Path, job: Job) -> list[str]:
    """The label map, or a mask for each class; names of the files."""
    like = scan.path if scan.series is None else volume.affine
    facts = {"model": job.model.name, "sha256": job.made_with["model"], "preset": job.made_with["preset"]}
    if not job.per_head:
        save_label(label, target, like=like, names=job.names, **facts)
        return [target.name]
    paths = {channel: class_path(target, name) for channel, name in job.names.items()}
    for channel, path in paths.items():
        save_label(label[channel], path, like=like, names={1: job.names[channel]}, **facts)
    return [path.name for path in paths.values()]


def _read(paths: Iterable[Path], job: Job) -> np.ndarray:
    """A label map, or masks (C H W D), as ``_write`` has written them."""
    import nibabel

    found = [np.asanyarray(nibabel.load(path).dataobj) for path in paths]
    if not job.per_head:
        return found[0]
    masks = np.zeros((1 + max(job.names), *found[0].shape), dtype=np.uint8)
    masks[list(job.names)] = found
    return masks


def _extras(scan: Scan, volume: Volume, label: np.ndarray, target: Path, kinds: set, job: Job) -> dict[str, list[str]]:
    """Image and picture beside the label map, as far as they are in ``kinds``; names of the files."""
    files = {}
    stem = stem_of(target.name)
    if IMAGE in kinds:
        name = f"{scan.name}.nii.gz" if job.journal else f"{stem}_image.nii.gz"
        save_image(volume, target.with_name(name))
        files[IMAGE] = [name]
    if PICTURE in kinds:
        name = f"{stem.removesuffix(LABELS)}.png"
        _draw(scan.name, volume, label, target.with_name(name), job)
        files[PICTURE] = [name]
    return files


def _draw(name: str, volume: Volume, label: np.ndarray, path: Path, job: Job) -> None:
    from fedpartial.evaluation.prediction_picture import prediction_picture

    if job.per_head:
        label = _merged(label, job.names)
    space = job.predictor.preset.label_space
    png = prediction_picture(volume.array, label, affine=volume.affine, space=space, title=name)
    with replacing(path) as temporary:
        temporary.write_bytes(png)


def _merged(masks: np.ndarray, channels: Iterable[int]) -> np.ndarray:
    """Masks (C H W D) that may overlap as one label map: a lesion, whose channel is higher, lies on its organ."""
    label = np.zeros(masks.shape[1:], dtype=np.uint8)
    for channel in channels:
        label[masks[channel] > 0] = channel
    return label
