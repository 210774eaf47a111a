"""Mixed precision where the device has it, float32 elsewhere."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import torch

from fedpartial.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Precision:
    """The device and the type of the network's arithmetic; losses are always float32 or better."""

    device: torch.device
    dtype: torch.dtype

    @property
    def name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    @property
    def needs_scaler(self) -> bool:
        """Only float16 gradients underflow."""
        return self.dtype == torch.float16

    def autocast(self) -> contextlib.AbstractContextManager:
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)


def select_precision(device: str = "auto", *, where: str = "site file") -> Precision:
    """The device a site asked for and the fastest safe precision it has.

    "auto" takes CUDA when there is a device. bfloat16 is used on CUDA devices that have it and on CPUs
    with AVX512-BF16 or AMX; other CUDA devices use float16 with loss scaling; other CPUs float32.
    """
    chosen = _device(device, where)
    if chosen.type == "cuda":
        return Precision(device=chosen, dtype=torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16)
    if chosen.type == "cpu" and _cpu_has_bfloat16():
        return Precision(device=chosen, dtype=torch.bfloat16)
    return Precision(device=chosen, dtype=torch.float32)


def _device(name: str, where: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(
            where=where,
            field="device",
            got=name,
            expected="a torch device that this machine has",
            remedy="Use 'auto', which takes a GPU when there is one.",
        ) from error
    return device


def _cpu_has_bfloat16() -> bool:
    # torch has no public test; both names are stable since 2.4 and pinned by requirements.txt.
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
