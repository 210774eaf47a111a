"""Peak memory and time of segmenting one CT of 512 x 512 x 600 voxels, each measurement in a process of its own.

    python benchmarks/predict_memory.py
    python benchmarks/predict_memory.py --presets abdomen psmos mmds --network scores
    python benchmarks/predict_memory.py --presets abdomen --windows 2

The CT is synthetic (0.7 x 0.7 x 1 mm, int16, .nii.gz, 315 MB unpacked), the weights are random. --network scores takes
a single convolution to as many classes instead of the preset's network, which shows the memory of everything around the
network in minutes; --windows N stops the preset's own network after N windows, which shows that of the network. Both
together bound a whole prediction. --how whole keeps the scores of the whole volume instead, on the prepared grid and
then on the file's, as MONAI's sliding window followed by a resampling and an argmax does.
Peak: ru_maxrss of the process, with Python and torch, which are shown as "start".
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SHAPE, SPACING_MM = (512, 512, 600), (0.7, 0.7, 1.0)


class EnoughWindows(Exception):
    """As many windows as were asked for are done."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=["phantom"])
    parser.add_argument("--network", choices=("preset", "scores"), default="preset")
    parser.add_argument("--windows", type=int, help="stop after so many windows")
    parser.add_argument("--how", choices=("rows", "whole"), nargs="+", default=["rows"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--ct", type=Path, help="where the CT is kept for the next time")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.ct and (arguments.ct.is_dir() or not arguments.ct.name.endswith(".nii.gz")):
        parser.error(f"--ct: got {arguments.ct}; expected a .nii.gz file, which is made where it is missing")
    if arguments.step:
        print(json.dumps(STEPS[arguments.step](arguments)))
        return
    with tempfile.TemporaryDirectory() as folder:
        arguments.ct = arguments.ct or Path(folder) / "ct.nii.gz"
        if not arguments.ct.exists():
            measure(arguments, "ct", arguments.presets[0])
        print(
            f"{'preset':10s} {'network':8s} {'how':6s} {'windows':>12s} {'start MiB':>10s} {'peak MiB':>9s} {'s':>6s}"
        )
        for preset in arguments.presets:
            for how in arguments.how:
                show(preset, arguments.network, how, measure(arguments, how, preset))


def measure(arguments: argparse.Namespace, step: str, preset: str) -> dict:
    """One step in a new process: its peak is its own."""
    command = [sys.executable, __file__, "--step", step, "--presets", preset, "--ct", str(arguments.ct)]
    command += ["--network", arguments.network, "--device", arguments.device]
    command += ["--windows", str(arguments.windows)] if arguments.windows else []
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def show(preset: str, network: str, how: str, found: dict) -> None:
    windows = f"{found['done']}/{found['all']}"
    numbers = f"{found['start']:10.0f} {found['peak']:9.0f} {found['seconds']:6.0f}"
    print(f"{preset:10s} {network:8s} {how:6s} {windows:>12s} {numbers}", flush=True)


def write_ct(arguments: argparse.Namespace) -> dict:
    """A body of water in air, with noise; its numbers are stored as a scanner's export has them."""
    import nibabel
    import numpy as np

    nibabel.openers.Opener.default_compresslevel = 1
    x, y = (np.linspace(-1, 1, n) for n in SHAPE[:2])
    body = (x[:, None] / 0.9) ** 2 + (y[None, :] / 0.6) ** 2 < 1
    noise = np.random.default_rng(0).integers(-40, 40, (*SHAPE[:2], 8), dtype=np.int16)
    array = np.empty(SHAPE, dtype=np.int16, order="F")
    for index in range(SHAPE[2]):
        array[..., index] = np.where(body, 40, -1000) + noise[..., index % 8]
    nibabel.save(nibabel.Nifti1Image(array, np.diag([*SPACING_MM, 1.0])), arguments.ct)
    return {}


def by_rows(arguments: argparse.Namespace) -> dict:
    """The project's own prediction."""
    predictor = model(arguments)
    from fedpartial.data.preprocess import load_image

    return timed(arguments, lambda progress: predictor.segment(load_image(arguments.ct), progress))


def whole(arguments: argparse.Namespace) -> dict:
    """All scores at once, on the prepared grid and on the file's."""
    predictor = model(arguments)
    import nibabel
    import numpy as np
    import torch

    from fedpartial.data.preprocess import Volume, preprocess_image
    from fedpartial.training.evaluator import predict_logits

    def segment(progress):
        file = nibabel.load(arguments.ct)
        volume = Volume(array=np.asanyarray(file.dataobj, dtype=np.float32), affine=file.affine)
        prepared = preprocess_image(volume, predictor.preset)
        counted = counting(predictor.network, progress)
        scores = predict_logits(predictor.network, prepared.array, predictor.preset, predictor.precision, counted)
        size = volume.array.shape
        return torch.nn.functional.interpolate(scores[None], size=size, mode="trilinear")[0].argmax(0).numpy()

    return timed(arguments, segment)


def counting(network, progress):
    done = 0

    def apply(windows):
        nonlocal done
        scores = network(windows)
        done += len(windows)
        progress(done, 0)
        return scores

    return apply


def timed(arguments: argparse.Namespace, segment) -> dict:
    seen = (0, 0)

    def progress(done: int, of: int) -> None:
        nonlocal seen
        seen = (done, of)
        if arguments.windows and done >= arguments.windows:
            raise EnoughWindows

    start, began = peak_mib(), time.monotonic()
    with contextlib.suppress(EnoughWindows):
        segment(progress)
    return dict(done=seen[0], all=seen[1], start=start, peak=peak_mib(), seconds=time.monotonic() - began)


def model(arguments: argparse.Namespace):
    """A predictor of random weights."""
    from fedpartial.inference.predictor import Predictor
    from fedpartial.networks.build import build_network
    from fedpartial.networks.canonical import canonical_state
    from fedpartial.presets import UniversalConfig, get_preset
    from fedpartial.training.model_file import model_info, save_model
    from fedpartial.training.plan import Plan

    preset = get_preset(arguments.presets[0])
    classes = preset.label_space.classes if isinstance(preset.network, UniversalConfig) else None
    state = {n: t.numpy() for n, t in canonical_state(build_network(preset, seed=0, head_classes=classes)).items()}
    path = arguments.ct.with_name(f"{preset.name}.safetensors")
    plan = Plan(job="benchmark", preset=preset.name, num_rounds=1, local_steps=1)
    save_model(path, state, model_info(plan, 1))
    predictor = Predictor(path, device=arguments.device)
    if arguments.network == "scores":
        import torch

        scores = torch.nn.Conv3d(1, preset.label_space.num_channels, 1).requires_grad_(False)
        predictor.network = scores.to(predictor.precision.device)
    path.unlink()
    return predictor


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


STEPS = {"ct": write_ct, "rows": by_rows, "whole": whole}


if __name__ == "__main__":
    main()
