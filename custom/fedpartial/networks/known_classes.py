"""A network of all classes that was taught some of them: what no site has annotated is background.

With the marginal loss (METHODS 1.1) a class that a case does not annotate counts as background of that case. A class
that nobody annotates counts so everywhere, and nothing then keeps its output apart from the background's: without this
module it takes whole parts of the body. At inference its probability belongs to the background, as it did in training.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn

from fedpartial.networks.residual_unet import ABSENT
from fedpartial.presets import Preset, UniversalConfig


def of_known_classes(network: nn.Module, preset: Preset, annotated: Collection[str] | None) -> nn.Module:
    """The network, of which classes that nobody has annotated are background; None: that is not known, or all are.

    A universal network, or one with a head for each class, has no output for a class that it was not taught.
    """
    space = preset.label_space
    has_all = annotated is None or set(space.classes) <= set(annotated)
    if has_all or isinstance(preset.network, UniversalConfig) or getattr(network, "head_channels", ()):
        return network
    return KnownClasses(network, [space.index(name) for name in annotated], space.num_channels)


class KnownClasses(nn.Module):
    """Logits (N, C, H, W, D) of ``network``, in which classes other than ``head_channels`` never win; their probability
    is added to that of channel 0, background. The probabilities of the others are unchanged."""

    def __init__(self, network: nn.Module, head_channels: Sequence[int], num_channels: int):
        super().__init__()
        self.network, self.head_channels = network, tuple(sorted(head_channels))
        taken = torch.tensor([channel not in self.head_channels for channel in range(num_channels)])
        self.register_buffer("background", taken.nonzero().flatten(), persistent=False)
        self.register_buffer("unknown", taken[1:], persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        logits = self.network(image)
        background = logits.index_select(1, self.background).logsumexp(dim=1, keepdim=True)
        unknown = self.unknown.view(1, -1, *[1] * (logits.ndim - 2))
        return torch.cat([background, logits[:, 1:].masked_fill(unknown, ABSENT)], dim=1)
