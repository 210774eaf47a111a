"""Bytes of one message between server and site, this project's against the reference implementation's.

    python benchmarks/message_bytes.py --preset abdomen --reference DIR
    python benchmarks/message_bytes.py --preset phantom_coarse --update BEFORE.safetensors AFTER.safetensors

A row is a train task (the global model) or a site's answer (an update), made by the code that makes them in a job and
encoded by FLARE in one piece (FOBS; between processes it sends the same arrays apart). Numbers are the tensors alone,
the envelope is all else. CPU seconds are those of making half precision, or of FLARE's filter, and of encoding. The
relative error is |got - sent| / |sent| over all tensors, where "got" is what the other side trains with, or adds;
"became 0" counts numbers that were something else.

Without --update the update is the difference of two untrained networks, which has other numbers than a real one: the
bytes of every fixed width are right, adaquant's and the errors are not. --update takes two models of a run, for example
the one that a round started from and a site's own after it (local_model.safetensors).

FLARE's own filters (ModelQuantizer) need bitsandbytes, which the project does not install; a kind that cannot work here
is listed with its reason.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import reference_code
import torch
from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.fuel.utils import fobs
from nvflare.private.fed.utils.fed_utils import nvflare_fobs_initialize

from fedpartial.flare.plan import RunPlan
from fedpartial.flare.weights import message_bytes, narrow, update_message, weights_of_task
from fedpartial.networks.build import build_network
from fedpartial.networks.canonical import canonical_state
from fedpartial.networks.wire import Wire
from fedpartial.presets import PRESETS, get_preset
from fedpartial.training.model_file import load_model

MIB = 2**20
REFERENCE = "reference"
FLARE_KINDS = ("float16", "adaquant", "blockwise8", "float4", "normfloat4")
HEADING = (
    "message",
    "sent as",
    "tensors",
    "MiB of numbers",
    "MiB with envelope",
    "envelope KiB",
    "CPU s",
    "rel. error",
    "became 0",
)
METRICS = {"loss": 0.5, "val_dice": {}, "seconds": 60.0, "bytes_down": 0, "tensors_taken": 79, "device": "cpu"}
Arrays = Mapping[str, np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="abdomen")
    parser.add_argument("--update", type=Path, nargs=2, metavar=("BEFORE", "AFTER"), help="two models of a run")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    reference_code.add_option(parser, required=False)
    given = parser.parse_args()
    nvflare_fobs_initialize()
    if given.child:
        print(json.dumps(reference_messages(reference_code.find_reference(given.reference))))
        return
    if given.reference:
        print(reference_code.find_reference(given.reference).describe(), end="\n\n")
    print(_line(HEADING), _line(["---"] * len(HEADING)), sep="\n")
    for row in [*_reference_rows(given), *our_rows(given.preset, given.update)]:
        print(_line(row), flush=True)


def our_rows(preset: str, update: tuple[Path, Path] | None) -> list[tuple]:
    """A row for every message and every way to send it."""
    model, change = _tensors(preset, update)
    messages = {
        "task": lambda: DXO(DataKind.WEIGHTS, data=dict(model)).to_shareable(),
        "update": lambda: _answer(change),
    }
    rows = []
    for name, make in messages.items():
        sent = model if name == "task" else change
        rows += [
            (name, f"wire {wire}", *_measure(make, _with_wire(preset, name, wire), sent))
            for wire in ("float32", "float16")
        ]
        rows += [(name, f"FLARE's {kind}", *_measure_filter(make, kind, sent)) for kind in FLARE_KINDS]
    return rows


def _tensors(preset: str, files: tuple[Path, Path] | None) -> tuple[Arrays, Arrays]:
    """A model and an update of it."""
    before, after = (load_model(path)[0] for path in files) if files else (_untrained(preset, seed) for seed in (0, 1))
    return before, {name: np.asarray(after[name] - value) for name, value in before.items()}


def _untrained(preset: str, seed: int) -> Arrays:
    network = build_network(get_preset(preset), seed=seed)
    return {name: tensor.numpy() for name, tensor in canonical_state(network).items()}


def _answer(update: Arrays) -> Shareable:
    return update_message({name: torch.from_numpy(value) for name, value in update.items()}, 1000, METRICS)


def _with_wire(preset: str, message: str, wire: Wire) -> Callable[[Shareable], Shareable]:
    """What the server does with a task, and a site with its answer."""
    plan = RunPlan(job="condistfl", preset=preset, num_rounds=120, local_steps=1000, seed=0, wire=wire)

    def send(shareable: Shareable) -> Shareable:
        if message == "task":
            plan.attach(shareable)
        else:
            narrow(shareable, wire)
        return shareable

    return send


def _measure(make: Callable[[], Shareable], send: Callable[[Shareable], Shareable], sent: Arrays, unpack=None) -> tuple:
    message = make()
    started = time.process_time()
    message = send(message)
    encoded = fobs.dumps(message)
    seconds = time.process_time() - started
    numbers, tensors = message_bytes(message), len(from_shareable(message).data)
    arrived = fobs.loads(encoded)
    got = weights_of_task(unpack(arrived) if unpack else arrived)
    return (
        *_sizes(tensors, numbers, len(encoded)),
        f"{seconds:.2f}",
        f"{_error(got, sent):.1e}",
        f"{_lost(got, sent):.2%}",
    )


def _measure_filter(make: Callable[[], Shareable], kind: str, sent: Arrays) -> tuple:
    """FLARE's filters, or why they do not work here."""
    try:
        from nvflare.app_opt.pt.quantization.dequantizer import ModelDequantizer
        from nvflare.app_opt.pt.quantization.quantizer import ModelQuantizer

        pack, unpack = ModelQuantizer(kind), ModelDequantizer()
        return _measure(make, lambda m: pack.process(m, FLContext()), sent, lambda m: unpack.process(m, FLContext()))
    except (ImportError, AssertionError, RuntimeError) as error:
        return (f"{type(error).__name__}: {error}".partition("\n")[0], *[""] * (len(HEADING) - 3))


def _error(got: Mapping[str, torch.Tensor], sent: Arrays) -> float:
    """|got - sent| / |sent| over all tensors."""
    lost = sum(float(np.square(got[name].numpy().astype(np.float64) - value).sum()) for name, value in sent.items())
    return (lost / sum(float(np.square(value.astype(np.float64)).sum()) for value in sent.values())) ** 0.5


def _lost(got: Mapping[str, torch.Tensor], sent: Arrays) -> float:
    """Share of the numbers other than 0 that arrive as 0."""
    lost = sum(int(((got[name].numpy() == 0) & (value != 0)).sum()) for name, value in sent.items())
    return lost / sum(int(np.count_nonzero(value)) for value in sent.values())


def reference_messages(reference: reference_code.Reference) -> dict[str, tuple[int, int, int]]:
    """Message -> tensors, bytes of numbers, bytes encoded, with the reference's own functions."""
    reference.use()
    from utils.get_model import get_model
    from utils.model_weights import extract_weights

    model = extract_weights(get_model(reference.job_file("liver", "config_task.json")["model"]))
    update = {name: value - value / 2 for name, value in model.items()}  # arrays of their own, as at a site
    meta = {MetaKey.NUM_STEPS_CURRENT_ROUND: 1000}
    messages = {"task": DXO(DataKind.WEIGHTS, data=model), "update": DXO(DataKind.WEIGHT_DIFF, data=update, meta=meta)}
    whole = {name: dxo.to_shareable() for name, dxo in messages.items()}
    return {name: (len(model), message_bytes(m), len(fobs.dumps(m))) for name, m in whole.items()}


def _reference_rows(given: argparse.Namespace) -> Iterable[tuple]:
    if not given.reference:
        return []
    command = [sys.executable, __file__, "--child", "--reference", str(given.reference)]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
    return [(name, REFERENCE, *_sizes(*sizes), "", "0", "0") for name, sizes in found.items()]


def _sizes(tensors: int, numbers: int, encoded: int) -> tuple[str, ...]:
    return str(tensors), f"{numbers / MIB:.1f}", f"{encoded / MIB:.1f}", f"{(encoded - numbers) / 1024:.0f}"


def _line(cells: Iterable[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    main()
