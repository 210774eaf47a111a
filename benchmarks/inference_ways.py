"""Ways to get from a CT file to a label map on the CT's own grid, each run in a process of its own by ``inference.py``.

ours                  ``fedpartial predict`` (cli/predict.py), as it is
reference             the reference's run_infer.py, as it is; what it sends to "cuda" stays on the CPU, in float32
reference-bfloat16    the same within bfloat16 autocast, the precision that ours chooses on a CPU that has it
monai                 MONAI's tutorials: transforms from dictionaries, SlidingWindowInferer, Invertd of the scores to
                      the scan's grid, argmax there, SaveImaged; in ours' precision
monai-nearest         the same, but argmax before and Invertd of the labels by nearest neighbour: less memory

All have the same weights, windows (the preset's patch, overlap 0.5, gaussian) and threads. A run answers with seconds
and CPU seconds from the first import to the written file, those within the network, and memory before and at the peak.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from inference_case import MODEL, PRESET, TRACED, plain_network, reference_script
from reference_code import cuda_means, find_reference

from fedpartial.data.file_names import stem_of
from fedpartial.presets import get_preset
from fedpartial.training.precision import select_precision

CHANNELS = get_preset(PRESET).label_space.num_channels


@dataclass
class Spent:
    """Within the network."""

    windows: int = 0
    seconds: float = 0.0
    cpu: float = 0.0

    @contextlib.contextmanager
    def counting(self, windows: int) -> Iterator[None]:
        seconds, cpu = time.perf_counter(), time.process_time()
        yield
        self.windows += windows
        self.seconds += time.perf_counter() - seconds
        self.cpu += time.process_time() - cpu


class Counted(torch.nn.Module):
    """A network whose calls are counted, or one layer of as many channels in its place."""

    def __init__(self, network: torch.nn.Module, spent: Spent, stand_in: bool, layout=torch.contiguous_format):
        """layout: the network's memory format, in which the stand-in answers too."""
        super().__init__()
        self.network, self.spent, self.stand_in, self.layout = network, spent, stand_in, layout
        self.layer = one_layer()

    def forward(self, windows, *_):
        with self.spent.counting(len(windows)):
            if self.stand_in:
                return self.layer(windows).contiguous(memory_format=self.layout)
            return self.network(windows)


def one_layer() -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torch.nn.Conv3d(1, CHANNELS, 1).requires_grad_(False)


def ours(given: Namespace, spent: Spent, out: Path) -> None:
    from fedpartial.cli.predict import Request, predict_all
    from fedpartial.cli.reply import Reply
    from fedpartial.inference import predictor

    load = predictor.load_network

    def load_counted(path: Path):
        network, preset = load(path)
        counted = Counted(network, spent, given.stand_in, torch.channels_last_3d)
        return counted, replace(preset, patch=tuple(given.patch))

    predictor.load_network = load_counted
    predict_all(Request(model=given.folder / MODEL, inputs=(given.ct,), out=out, force=True), Reply(as_json=True))


def reference(given: Namespace, spent: Spent, out: Path) -> None:
    script = reference_script(find_reference(given.reference), "run_infer")
    load, inferer = torch.jit.load, script.SlidingWindowInferer
    torch.jit.load = lambda path: Counted(load(path), spent, given.stand_in)
    script.SlidingWindowInferer = lambda **options: inferer(**{**options, "roi_size": given.patch})
    listed = out.with_suffix(".json")
    listed.write_text(json.dumps({"all": [{"image": given.ct.name}]}))
    values = {"data_root": str(given.ct.parent), "data_list": str(listed), "data_list_key": "all"}
    with cuda_means("cpu"):
        script.main(Namespace(**values, model=str(given.folder / TRACED), output=str(out.parent / out.stem)))
    (out.parent / out.stem / f"{stem_of(given.ct.name)}_seg.nii.gz").rename(out)


def reference_bfloat16(given: Namespace, spent: Spent, out: Path) -> None:
    """Its ``torch.cuda.amp.autocast`` means nothing without CUDA, so that the outer autocast holds."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        reference(given, spent, out)


def monai(given: Namespace, spent: Spent, out: Path, *, invert_labels: bool = False) -> None:
    from monai import transforms as t
    from monai.data import decollate_batch, list_data_collate
    from monai.inferers import SlidingWindowInferer

    preset, precision = get_preset(PRESET), select_precision("cpu")
    low, high = preset.window_hu
    target = [(bound - preset.normalise_subtract) / preset.normalise_divide for bound in (low, high)]
    before = t.Compose(
        [
            t.LoadImaged("image"),
            t.EnsureChannelFirstd("image"),
            t.Orientationd("image", axcodes="RAS"),
            t.Spacingd("image", pixdim=preset.spacing_mm, mode="bilinear"),
            t.ScaleIntensityRanged("image", a_min=low, a_max=high, b_min=target[0], b_max=target[1], clip=True),
        ]
    )
    invert = t.Invertd("pred", transform=before, orig_keys="image", nearest_interp=invert_labels, to_tensor=True)
    decide = t.AsDiscreted("pred", argmax=True)
    order = [decide, invert] if invert_labels else [invert, decide]
    save = t.SaveImaged("pred", output_dir=out.parent, output_postfix=out.stem, separate_folder=False, resample=False)
    after = t.Compose([*order, save])
    network = Counted(plain_network(given.folder), spent, given.stand_in)
    batch = list_data_collate([before({"image": given.ct})])
    inferer = SlidingWindowInferer(roi_size=given.patch, sw_batch_size=1, overlap=preset.overlap, mode="gaussian")
    with torch.no_grad(), precision.autocast():
        batch["pred"] = inferer(batch["image"], network)
    for item in decollate_batch(batch):
        after(item)
    out.with_name(f"{stem_of(given.ct.name)}_{out.stem}.nii.gz").rename(out)


def monai_nearest(given: Namespace, spent: Spent, out: Path) -> None:
    monai(given, spent, out, invert_labels=True)


WAYS: dict[str, Callable[[Namespace, Spent, Path], None]] = {
    "ours": ours,
    "reference": reference,
    "reference-bfloat16": reference_bfloat16,
    "monai": monai,
    "monai-nearest": monai_nearest,
}


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@contextlib.contextmanager
def spoken_to_stderr() -> Iterator[None]:
    """Standard output is for the answer alone."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("--folder", type=Path, required=True, help="of model files and label maps")
    parser.add_argument("--ct", type=Path, required=True)
    parser.add_argument("--patch", type=int, nargs=3, required=True)
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--stand-in", action="store_true", help="one layer in place of the network")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    spent, start = Spent(), peak_mib()
    seconds, cpu = time.perf_counter(), time.process_time()
    with spoken_to_stderr():
        WAYS[given.way](given, spent, given.folder / f"{given.way}.nii.gz")
    answer = {"seconds": time.perf_counter() - seconds, "cpu": time.process_time() - cpu, "windows": spent.windows}
    network = {"network_seconds": spent.seconds, "network_cpu": spent.cpu}
    print(json.dumps({**answer, **network, "start": start, "peak": peak_mib()}))


if __name__ == "__main__":
    main()
