"""A network as one file that needs no code of this project: torch.export, TorchScript or ONNX."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fedpartial.errors import ConfigError
from fedpartial.export.description import describe
from fedpartial.export.source import Example, Source, quiet

Runner = Callable[[Tensor], Tensor]
"""(N, 1, H, W, D) -> logits (N, C, H, W, D)."""
FACTS = "metadata.json"
"""Name of the description inside a file of torch."""
TRACES, WRITERS_OWN = ".debug_pkl", ("version", ".data/serialization_id")
"""Records of a file of TorchScript: lines of source code, and what torch adds itself when it closes a file."""
OPSET = 20
FATAL = 4
"""Of onnxruntime's log only this: its errors are raised as well."""


@dataclass(frozen=True, kw_only=True)
class Format:
    """How a network is written as a file, and how that file is run; ``needs`` are packages beyond requirements."""

    name: str
    file: str
    write: Callable[[Source, Example, Path], None]
    load: Callable[[Path], Runner]
    needs: tuple[str, ...] = ()


def write_torch_export(source: Source, example: Example, path: Path) -> None:
    facts = json.dumps(describe(source, example))
    with quiet():
        torch.export.save(source.program(example), path, extra_files={FACTS: facts})


def load_torch_export(path: Path) -> Runner:
    with quiet():
        return torch.export.load(path).module()


def write_torchscript(source: Source, example: Example, path: Path) -> None:
    facts = json.dumps(describe(source, example))
    with quiet(), torch.no_grad():
        image = torch.zeros(example.batch, 1, *example.size)
        traced = torch.jit.trace(source.network, image, check_trace=False)
        torch.jit.save(traced, str(path), _extra_files={FACTS: facts})
    _strip_traces(path)


def _strip_traces(path: Path) -> None:
    """Leave out where each line of the program came from: paths on this machine. Torch has no switch for it, but reads
    its own format without them."""
    bare = path.with_name(f"bare-{path.name}")
    reader, writer = torch._C.PyTorchFileReader(str(path)), torch._C.PyTorchFileWriter(str(bare))
    for name in reader.get_all_records():
        if not name.endswith(TRACES) and name not in WRITERS_OWN:
            record = reader.get_record(name)
            writer.write_record(name, record, len(record))
    writer.write_end_of_file()
    bare.replace(path)


def load_torchscript(path: Path) -> Runner:
    with quiet():
        return torch.jit.load(str(path), map_location="cpu")


def write_onnx(source: Source, example: Example, path: Path) -> None:
    """Raises what ``torch.onnx`` raises for a network that it cannot hold, and what ONNX's checker finds wrong."""
    import onnx

    facts = describe(source, example)
    with quiet(), torch.no_grad():
        names = {"input_names": [facts["input"]["name"]], "output_names": [facts["output"]["name"]]}
        made = torch.onnx.export(source.program(example), opset_version=OPSET, dynamo=True, verbose=False, **names)
        model = made.model_proto
    onnx.helper.set_model_props(model, {"fedpartial": json.dumps(facts), **_onnx_props(facts)})
    onnx.save(model, path)
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except onnx.checker.ValidationError as error:
        raise RuntimeError(str(error)) from error


def _onnx_props(facts: dict) -> dict[str, str]:
    """What a user of ONNX looks for first, each under a key of its own; the rest is under "fedpartial"."""
    image = facts["input"]
    chosen = {"classes": facts["output"]["classes"], "notice": facts["notice"]}
    chosen |= {key: image[key] for key in ("spacing_mm", "window_hu", "subtract", "divide", "patch")}
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in chosen.items()}


def load_onnx(path: Path) -> Runner:
    """A session of onnxruntime on the CPU; an image of a wrong shape raises ValueError, as elsewhere."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = FATAL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0]

    def run(image: Tensor) -> Tensor:
        wanted = [n if isinstance(n, int) else size for n, size in zip(given.shape, image.shape, strict=True)]
        if wanted != list(image.shape):
            raise ValueError(f"image of shape {tuple(image.shape)}; expected {given.shape}")
        try:
            return torch.from_numpy(session.run(None, {given.name: image.numpy()})[0])
        except Exception as error:  # onnxruntime's errors have no common base
            raise RuntimeError(str(error)) from error

    return run


FORMATS = {
    given.name: given
    for given in (
        Format(name="torch-export", file="model.pt2", write=write_torch_export, load=load_torch_export),
        Format(name="torchscript", file="model.ts", write=write_torchscript, load=load_torchscript),
        Format(
            name="onnx",
            file="model.onnx",
            write=write_onnx,
            load=load_onnx,
            needs=("onnx", "onnxscript", "onnxruntime"),
        ),
    )
}


def check_installed(names: tuple[str, ...], what: str) -> None:
    """ConfigError that names the packages to install, all at once."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            where="--format",
            field=what,
            got=f"{', '.join(missing)} not installed",
            expected="the packages that write and check this format",
            remedy=f"Install them: pip install {' '.join(missing)}",
        )
