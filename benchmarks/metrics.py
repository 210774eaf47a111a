"""HD95 and ASSD of a label map: one pass of distances here, MONAI's two functions, and how cases share cores.

    python benchmarks/metrics.py
    python benchmarks/metrics.py --shape 512 512 130 --repeats 5 --scaling
    python benchmarks/metrics.py --shape 512 512 200 --ways reference --reference DIR

Each repetition scores the same label maps (eight organs and lesions as ellipsoids with a wavy border) in both ways, one
after the other, in CPU seconds. MONAI is called as its users do: per class a mask of the whole volume, with its own
cropping.
``near``: every structure close to its reference. ``specks``: also a few voxels of each class far away. One process,
one thread. The times here are those of score_case, Dice and leakage included; MONAI's are of its two functions alone,
on whole masks, and on masks that somebody has cropped to both structures before ("monai_cropped"). "reference" is the
validation step of the reference implementation's run_validate.py behind the network (argmax of the scores, both maps as
one-hot float32, MONAI's DiceMetric): the Dice of the same classes and no distance. The last line is the peak of the
process's memory, so that one way at a time says what it needs.
"""

from __future__ import annotations

import argparse
import platform
import resource
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from fedpartial.evaluation.distances import foreground_box
from fedpartial.evaluation.metrics import score_case
from fedpartial.labels import LabelSpace, Organ

SPACING_MM = (0.8, 0.8, 2.5)
STRUCTURES = (
    ((0.35, 0.50, 0.50), (0.16, 0.14, 0.35)),
    ((0.40, 0.45, 0.50), (0.04, 0.04, 0.12)),
    ((0.72, 0.60, 0.55), (0.06, 0.08, 0.20)),
    ((0.50, 0.45, 0.40), (0.10, 0.035, 0.10)),
    ((0.52, 0.46, 0.40), (0.02, 0.02, 0.06)),
    ((0.30, 0.65, 0.40), (0.045, 0.05, 0.25)),
    ((0.70, 0.68, 0.40), (0.045, 0.05, 0.25)),
    ((0.69, 0.68, 0.42), (0.02, 0.02, 0.10)),
)
"""Centre and radii as parts of the volume: about liver, tumour, spleen, pancreas, tumour, two kidneys, tumour."""
SPACE = LabelSpace(organs=tuple(Organ(name=f"structure_{i}") for i in range(1, len(STRUCTURES) + 1)))
WAYS = ("monai", "monai_cropped", "reference")
SHIFT, WAVES, SPECKS, SPECK = 0.003, 0.12, 3, 4


def label_maps(shape: Sequence[int], *, specks: bool) -> tuple[np.ndarray, np.ndarray]:
    """Prediction and reference, uint8 (H W D), in Fortran order as nibabel reads them."""
    rng = np.random.default_rng(0)
    prediction, reference = (np.zeros(shape, np.uint8, order="F") for _ in range(2))
    for channel, (centre, radii) in enumerate(STRUCTURES, start=1):
        reference[ellipsoid(shape, centre, radii, 0, rng)] = channel
        prediction[ellipsoid(shape, [c + SHIFT for c in centre], radii, WAVES, rng)] = channel
    for channel in range(1, len(STRUCTURES) + 1) if specks else ():
        for _ in range(SPECKS):
            corner = [int(rng.integers(n - SPECK)) for n in shape]
            prediction[tuple(slice(c, c + SPECK) for c in corner)] = channel
    return prediction, reference


def ellipsoid(shape: Sequence[int], centre: Sequence[float], radii: Sequence[float], waves: float, rng) -> np.ndarray:
    """Bool (H W D): a solid ellipsoid whose border swings by ``waves`` of its radius."""
    axes = [(np.arange(n) / n - c) / r for n, c, r in zip(shape, centre, radii, strict=True)]
    phases = rng.uniform(0, 6, 3)
    swings = [np.sin(f * np.arange(n) / n + p) for n, f, p in zip(shape, (40, 35, 30), phases, strict=True)]
    squared = axes[0][:, None, None] ** 2 + axes[1][None, :, None] ** 2 + axes[2][None, None, :] ** 2
    return squared + waves * swings[0][:, None, None] * swings[1][None, :, None] * swings[2][None, None, :] < 1


def ours(prediction: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """(C, 2): HD95 and ASSD in mm of every class."""
    labelled = SPACE.labelled_mask(SPACE.classes)
    scores = score_case(prediction, reference, spacing_mm=SPACING_MM, space=SPACE, labelled=labelled)
    return np.array([[scores.hd95_mm[name], scores.assd_mm[name]] for name in SPACE.classes])


def monai(prediction: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """The same numbers by MONAI's two functions."""
    return np.array([monai_class(prediction == c, reference == c) for c in range(1, SPACE.num_channels)])


def cropped(prediction: np.ndarray, reference: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """For every class both masks without anything around them."""
    pairs = [(prediction == channel, reference == channel) for channel in range(1, SPACE.num_channels)]
    boxes = [foreground_box(one | other) for one, other in pairs]
    return [(one[box], other[box]) for (one, other), box in zip(pairs, boxes, strict=True)]


def monai_cropped(*pairs: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """The same numbers by MONAI from such masks."""
    return np.array([monai_class(*pair) for pair in pairs])


def monai_class(*masks: np.ndarray) -> list[float]:
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance
    from monai.metrics.surface_distance import compute_average_surface_distance

    one_hot = [torch.from_numpy(mask)[None, None].float() for mask in masks]
    options = {"include_background": True, "spacing": SPACING_MM}
    hd95 = compute_hausdorff_distance(*one_hot, percentile=95, directed=False, **options)
    assd = compute_average_surface_distance(*one_hot, symmetric=True, **options)
    return [hd95.item(), assd.item()]


def our_dice(prediction: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """(C,): Dice of every class."""
    labelled = SPACE.labelled_mask(SPACE.classes)
    scores = score_case(prediction, reference, spacing_mm=SPACING_MM, space=SPACE, labelled=labelled)
    return np.array([scores.dice[name] for name in SPACE.classes])


def timed(score: Callable, *maps) -> tuple[float, np.ndarray]:
    """CPU seconds, which other work on the machine changes little, and what was found."""
    start = time.process_time()
    found = score(*maps)
    return time.process_time() - start, found


def compare(name: str, maps: tuple[np.ndarray, np.ndarray], ways: Sequence[str], options: argparse.Namespace) -> None:
    """Print a row for each other way: median CPU seconds, the ratio of every pair of runs and its spread."""
    for way in ways:
        score, given, same = chosen(way, maps, options.reference)
        own, theirs = [], []
        for _ in range(options.repeats):
            taken, values = timed(score, *given)
            np.testing.assert_allclose(values, same(*maps), rtol=1e-4)
            own.append(timed(ours, *maps)[0])
            theirs.append(taken)
        ratios = sorted(their / mine for mine, their in zip(own, theirs, strict=True))
        numbers = (*map(statistics.median, (own, theirs, ratios)), ratios[0], ratios[-1])
        print("| " + " | ".join((name, way, *(f"{number:.2f}" for number in numbers))) + " |", flush=True)


def chosen(way: str, maps: tuple[np.ndarray, np.ndarray], folder: Path) -> tuple[Callable, tuple, Callable]:
    """A way, what it is given, and what gives the same numbers here."""
    if way == "reference":
        from metrics_reference import ByReference

        validator = ByReference(folder, SPACE.classes)
        return validator, validator.given(*maps), our_dice
    return (monai, maps, ours) if way == "monai" else (monai_cropped, tuple(cropped(*maps)), ours)


def scaling(maps: tuple[np.ndarray, np.ndarray], cases: int, workers: Sequence[int]) -> None:
    """Seconds of ``fedpartial evaluate``'s scoring for that many cases as files, by the number of processes."""
    import nibabel

    from fedpartial.data.side_by_side import in_processes
    from fedpartial.evaluation.comparable import comparable
    from fedpartial.evaluation.scored_case import ScoreTask, score_files

    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{name}.nii.gz" for name in ("prediction", "reference")]
        for volume, file in zip(maps, files, strict=True):
            nibabel.save(nibabel.Nifti1Image(volume, np.diag([*SPACING_MM, 1])), file)
        table = SPACE.table(dict(enumerate(SPACE.classes, start=1)), where="benchmark")
        known = comparable(SPACE, SPACE.labelled_mask(SPACE.classes), SPACE.classes, "auto")
        tables = {"prediction_table": table, "reference_table": table}
        place = {"name": "case", "site": "here", "split": "testing", "image": files[1]}
        task = ScoreTask(**place, **tables, prediction=files[0], reference=files[1], space=SPACE, comparable=known)
        for number in workers:
            start = time.perf_counter()
            done = list(in_processes(score_files, [task] * cases, number))
            print(f"{number} process(es): {len(done)} cases in {time.perf_counter() - start:.1f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=(512, 512, 130))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=WAYS[:2], help="to compare with; none: ours alone")
    parser.add_argument("--maps", nargs="+", choices=("near", "specks"), default=("near", "specks"))
    parser.add_argument("--reference", type=Path, metavar="DIR", help="research/condist-fl of a checkout of NVFlare")
    parser.add_argument("--scaling", action="store_true", help="also score files with 1 and 2 processes")
    parser.add_argument("--cases", type=int, default=8)
    options = parser.parse_args()
    if "reference" in options.ways and not options.reference:
        parser.error("--ways reference needs --reference DIR")
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=FutureWarning)
    print(f"{options.shape}, {len(STRUCTURES)} classes, {options.repeats} repetitions, {platform.processor()}")
    print("| case | compared with | here (s) | there (s) | ratio | least | most |\n|---|---|---|---|---|---|---|")
    for name in options.maps:
        compare(name, label_maps(options.shape, specks=name == "specks"), options.ways, options)
    if options.scaling:
        scaling(label_maps(options.shape, specks=False), options.cases, (1, 2))
    print(f"peak: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
