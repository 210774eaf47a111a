"""What is exported: a trained network as it predicts, its program, and the shapes on which the program is made."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import torch
from torch import Tensor, nn

from fedpartial.inference.models import load_network
from fedpartial.networks.build import build_network
from fedpartial.networks.canonical import canonical_state, canonical_tensors, load_canonical
from fedpartial.networks.known_classes import KnownClasses
from fedpartial.presets import NetworkConfig, Preset, UniversalConfig
from fedpartial.training.model_file import ModelInfo, load_model

NUM_EXAMPLES = 2
"""Images of the batch on which a program is made: torch takes a batch of one for a constant."""
TRACES = ("stack_trace", "nn_module_stack", "source_fn_stack", "from_node")
"""What torch.export notes of the code behind each step: paths on the exporter's machine, which would travel."""
LEVELS_MIN = 2
"""Voxels that the deepest features of an example have along each axis: instance normalisation needs more than one."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """The shape of the image on which a program is made: ``batch`` images of ``size`` (H W D).

    ``open_size``: other sizes are asked for too; another batch is, where this one has more than one image.
    """

    batch: int
    size: tuple[int, int, int]
    open_size: bool

    @property
    def open_axes(self) -> tuple[int, ...]:
        """Axes of the image whose length is left open."""
        return ((0,) if self.batch > 1 else ()) + ((2, 3, 4) if self.open_size else ())


class Source:
    """A model file ready to be exported: ``network`` (frozen, on the CPU), ``preset`` and ``info``."""

    def __init__(self, path: Path):
        """Raises ConfigError for a file that holds no model of this project."""
        network, self.preset = load_network(path)
        _, self.info = load_model(path)
        self.path, self.network = path, inference_network(network, self.preset)
        self._programs: dict[Example, torch.export.ExportedProgram] = {}

    @property
    def is_dynunet(self) -> bool:
        """Whether it is MONAI's DynUNet and nothing around it."""
        return isinstance(self.preset.network, NetworkConfig) and not isinstance(self.network, KnownClasses)

    @property
    def multiple(self) -> tuple[int, ...]:
        """What the network divides the size of an image by, along each axis."""
        return tuple(prod(steps) for steps in zip(*self.preset.network.strides, strict=True))

    def examples(self) -> Sequence[Example]:
        """Shapes to try, the freest first: what a program cannot leave open, it keeps from its example."""
        patch = self.preset.patch
        whole = Example(batch=1, size=patch, open_size=False)
        if isinstance(self.preset.network, UniversalConfig) and self.preset.network.extractor == "swin_unetr":
            return (whole,)  # windows of attention are laid out for one size
        small = tuple(min(LEVELS_MIN * m, n) for m, n in zip(self.multiple, patch, strict=True))
        return *(Example(batch=batch, size=small, open_size=True) for batch in (NUM_EXAMPLES, 1)), whole

    def program(self, example: Example) -> torch.export.ExportedProgram:
        """The network as torch.export sees it; batch and size are left open where its code allows."""
        if example not in self._programs:
            axes = dict.fromkeys(example.open_axes, torch.export.Dim.AUTO)
            with quiet(), torch.no_grad():
                image = torch.zeros(example.batch, 1, *example.size)
                program = torch.export.export(self.network, (image,), dynamic_shapes=(axes,))
            self._programs[example] = _without_traces(program)
        return self._programs[example]


def _without_traces(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            for name in TRACES:
                node.meta.pop(name, None)
    return program


def inference_network(network: nn.Module, preset: Preset) -> nn.Module:
    """The network without the heads that only training uses: DynUNet's deep supervision."""
    if isinstance(network, KnownClasses):
        network.network = inference_network(network.network, preset)
        return network.cpu().eval()
    config = preset.network
    if isinstance(config, NetworkConfig) and config.deep_supervision_heads:
        plain = replace(preset, network=replace(config, deep_supervision_heads=0))
        smaller, state = build_network(plain, seed=0), canonical_state(network)
        load_canonical(smaller, {name: state[name] for name in canonical_tensors(smaller)})
        network = smaller
    return network.cpu().eval().requires_grad_(False)


def random_image(batch: int, size: Sequence[int], seed: int = 0) -> Tensor:
    """A seeded normalised image (N, 1, H, W, D)."""
    return torch.randn(batch, 1, *size, generator=torch.Generator().manual_seed(seed))


@contextmanager
def quiet() -> Iterator[None]:
    """Without what PyTorch's exporters and MONAI say to developers; TorchScript is deprecated, and still asked for."""
    logs = [
        logging.getLogger(name)
        for name in ("torch.onnx", "torch.export", "torch._export", "onnxscript", "onnx_ir", "monai")
    ]
    levels = [log.level for log in logs]
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning, UserWarning, torch.jit.TracerWarning):
            warnings.simplefilter("ignore", category)
        for log in logs:
            log.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for log, level in zip(logs, levels, strict=True):
                log.setLevel(level)


def origin(info: ModelInfo) -> dict:
    """Where the model comes from, as plain values."""
    return {
        "job": info.plan["job"],
        "preset": info.plan["preset"],
        "rounds": info.round_number,
        "validation_dice": info.val_dice,
        "fedpartial_version": info.version,
    }
