"""Presets: everything a federation agrees on before it trains, as frozen values.

A preset owns the label space, the voxel grid, the intensity window, the patch, the network and the
optimisation constants. Jobs name a preset; sites never repeat what it says.
"""

from __future__ import annotations

from dataclasses import replace

from fedpartial.errors import ConfigError
from fedpartial.presets.abdomen import ABDOMEN, ABDOMEN_PAPER, ORGANS, PHANTOM, PHANTOM_COARSE
from fedpartial.presets.config import (
    AnyNetwork,
    MenuConfig,
    NetworkConfig,
    OptimizerConfig,
    Plateau,
    Preset,
    UNetConfig,
    UniversalConfig,
)
from fedpartial.presets.menu import MENU_PAPER, PHANTOM_MENU
from fedpartial.presets.mmds import GREAT_VESSELS, MMDS_PAPER, MMDS_PAPER_SWIN, PHANTOM_MMDS, PHANTOM_MMDS_SWIN
from fedpartial.presets.psmos import PHANTOM_PSMOS, PSMOS_PAPER, SIDED_ORGANS
from fedpartial.presets.segviz import PHANTOM_SEGVIZ, SEGVIZ_PAPER

__all__ = [
    "ABDOMEN",
    "GREAT_VESSELS",
    "ORGANS",
    "PRESETS",
    "SIDED_ORGANS",
    "AnyNetwork",
    "MenuConfig",
    "NetworkConfig",
    "OptimizerConfig",
    "Plateau",
    "Preset",
    "UNetConfig",
    "UniversalConfig",
    "get_preset",
]

PRESETS = {
    preset.name: preset
    for preset in (
        PHANTOM,
        PHANTOM_COARSE,
        ABDOMEN_PAPER,
        PHANTOM_SEGVIZ,
        SEGVIZ_PAPER,
        PHANTOM_PSMOS,
        PSMOS_PAPER,
        PHANTOM_MENU,
        MENU_PAPER,
        PHANTOM_MMDS,
        PHANTOM_MMDS_SWIN,
        MMDS_PAPER,
        MMDS_PAPER_SWIN,
    )
}


def get_preset(name: str, *, merge_lesions: bool = False) -> Preset:
    """The preset of that name; with ``merge_lesions`` its label space has organs only."""
    if name not in PRESETS:
        raise ConfigError(
            where="job",
            field="preset",
            got=name,
            expected=f"one of {', '.join(PRESETS)}",
            remedy="Correct the job's 'preset'.",
        )
    preset = PRESETS[name]
    if merge_lesions:
        return replace(preset, label_space=replace(preset.label_space, merge_lesions=True))
    return preset
