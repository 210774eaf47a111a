"""The one place where a preset becomes a network, and where the output of training becomes what losses take."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from fedpartial.errors import ConfigError
from fedpartial.networks.classes import check_classes
from fedpartial.networks.dynunet import build_dynunet
from fedpartial.networks.menu import build_menu
from fedpartial.networks.residual_unet import build_residual_unet
from fedpartial.networks.universal import build_universal
from fedpartial.presets import MenuConfig, Preset, UNetConfig, UniversalConfig

WITH_HEADS = (UNetConfig, UniversalConfig)
"""Networks that can have an output for each of some classes."""


def build_network(preset: Preset, *, seed: int, head_classes: Sequence[str] | None = None) -> nn.Module:
    """The preset's network with seeded initial weights; the caller's random state is kept.

    ``head_classes`` gives a residual U-Net one private head for each class instead of a joint one, and a universal
    network these classes instead of all. In evaluation mode the network returns (N, C, H, W, D), whose argmax over C is
    the label; see ``training_outputs`` for training.
    Raises ConfigError for heads that the preset's network cannot have.
    """
    if head_classes is not None:
        _check_heads(preset, head_classes)
    if isinstance(preset.network, UNetConfig):
        return build_residual_unet(preset, seed=seed, head_classes=head_classes)
    if isinstance(preset.network, UniversalConfig):
        return build_universal(preset, seed=seed, classes=head_classes)
    if isinstance(preset.network, MenuConfig):
        return build_menu(preset, seed=seed)
    return build_dynunet(preset, seed=seed)


def training_outputs(output: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """What a network in training mode returned, as a method's loss takes it: full resolution first.

    Logits (N, C, *S) each, of deep-supervision heads at their own resolution; those of a network with private heads are
    one (N, heads, 2, H, W, D), those of a universal network one (N, K, H, W, D).
    """
    return output if isinstance(output, tuple) else (output,)


def _check_heads(preset: Preset, head_classes: Sequence[str]) -> None:
    if not isinstance(preset.network, WITH_HEADS):
        raise ConfigError(
            where=f"preset {preset.name}",
            field="network",
            got=type(preset.network).__name__,
            expected="UNetConfig or UniversalConfig, the networks that have private heads",
            remedy="Choose a preset of SegViz or MMDS, or exchange all tensors.",
        )
    check_classes(preset, head_classes)
