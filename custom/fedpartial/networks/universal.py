"""The universal network of MMDS: one binary output per class, made of the class's vector (METHODS 4.1).

Liu et al., "CLIP-driven universal model for organ segmentation and tumor detection", ICCV 2023, as "Federated continual
3D segmentation with single-round communication" uses it. Written from the specification. A frozen vector stands for a
class; from it and a summary of the image a controller makes the weights of three small layers, which turn the
extractor's features into the class's logit. A class more is a vector more: no weight changes its shape, and because
every class is computed by itself, the logits of the others stay the same bit for bit.

Names of tensors: ``extractor.*``, ``summary.*``, ``reduction.*``, ``controller.*``, ``head.*``, and the frozen vectors
``embeddings.<class>``: the classes that a state knows are those of which it has a vector.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from fedpartial.labels import LabelSpace
from fedpartial.networks.classes import check_classes
from fedpartial.networks.embeddings import class_vectors
from fedpartial.networks.part_seed import GENERATOR, part_seed
from fedpartial.networks.residual_unet import scores
from fedpartial.networks.split import EMBEDDINGS
from fedpartial.networks.universal_extractors import build_extractor, group_count
from fedpartial.presets import Preset, UniversalConfig

START_LOGIT = -2.5
"""Of every voxel and class before training, about: a foreground probability of 0.08."""
START_SHARES = (1.0, 1.0, 0.1, 0.0, 0.0, 0.0)
"""Of a head's weights and biases before training (``layer_sizes``): their size as a share of He's. Loss of the last 8
of 64 steps on the phantom: six classes 0.58, against 0.98 with torch's own start of reduction and controller, which
hardly tells classes apart; two classes 0.70, 0.73, 0.77 for three seeds, 0.47, 0.50, 0.78 with a share of 0.5."""


def universal_classes(names: Iterable[str]) -> tuple[str, ...]:
    """The classes that a universal network's state knows, in the order of the names; () for another network's."""
    return tuple(name.removeprefix(EMBEDDINGS) for name in names if name.startswith(EMBEDDINGS))


class Embeddings(nn.Module):
    """A frozen vector for each class, as buffers: they belong to the state and no optimiser sees them."""

    def __init__(self, vectors: Mapping[str, np.ndarray]):
        super().__init__()
        for name, vector in vectors.items():
            self.register_buffer(name, torch.tensor(np.asarray(vector), dtype=torch.float32))


class UniversalNetwork(nn.Module):
    """In training mode logits (N, K, H, W, D) of its K classes, in the order of the label space; a sigmoid each.

    In evaluation mode (N, C, H, W, D), float32 or better, whose argmax over C is the label: 0 for background, ABSENT
    for a class that it has not, an organ's logit, and for a lesion its logit plus its organ's where that is positive,
    because an organ's output includes its lesions. So a lesion wins in its organ where its own logit is positive.
    """

    def __init__(self, config: UniversalConfig, parts: Mapping[str, nn.Module], vectors: Mapping, space: LabelSpace):
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self.embeddings = Embeddings(vectors)
        self.sizes = layer_sizes(config.head_channels)
        self.classes, self.num_channels = tuple(vectors), space.num_channels
        self.head_channels = tuple(space.index(name) for name in vectors)
        self._organs = organ_outputs(space, tuple(vectors))

    def forward(self, image: Tensor) -> Tensor:
        logits = self.class_logits(image)
        return logits if self.training else self.label_scores(logits)

    def class_logits(self, image: Tensor) -> Tensor:
        """(N, 1, H, W, D) -> logits (N, K, H, W, D), in training and in evaluation mode."""
        deepest, full = self.extractor(image)
        summary, features = self.summary(deepest), self.head(full).flatten(2)
        logits = [self._logits_of(vector, summary, features) for vector in self.embeddings.buffers()]
        return torch.cat(logits, dim=1).unflatten(2, image.shape[2:])

    def _logits_of(self, vector: Tensor, summary: Tensor, features: Tensor) -> Tensor:
        """(N, 1, V) of one class, from its vector (E,), the image's summary (N, G) and the features (N, h, V).

        A loop over classes of batched products takes half the time of one grouped convolution on a CPU, and its
        operations do not depend on the other classes.
        """
        meaning = self.reduction(vector[None]).expand(summary.shape[0], -1)
        made = self.controller(torch.cat([summary, meaning], dim=1)).split(self.sizes, dim=1)
        hidden = _layer(features, made[0], made[3]).relu_()
        hidden = _layer(hidden, made[1], made[4]).relu_()
        return _layer(hidden, made[2], made[5])

    def label_scores(self, logits: Tensor) -> Tensor:
        """Logits (N, K, *S) of the classes -> scores (N, C, *S) as in evaluation mode."""
        odds = (logits if logits.dtype == torch.float64 else logits.float()).unbind(dim=1)
        pairs = zip(odds, self._organs, strict=True)
        shown = [own if organ is None else own + odds[organ].relu() for own, organ in pairs]
        return scores(shown, self.head_channels, self.num_channels)


def _layer(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A convolution 1^3 of each sample with its own weights (N, o * i) and biases (N, o): (N, i, V) -> (N, o, V)."""
    return torch.baddbmm(bias[:, :, None], weight.unflatten(1, (bias.shape[1], -1)), features)


def layer_sizes(width: int) -> tuple[int, ...]:
    """Numbers that a class's head is made of: weights of three layers, then their biases; 153 for a width of 8."""
    return (width * width, width * width, width, width, width, 1)


def organ_outputs(space: LabelSpace, classes: Sequence[str]) -> tuple[int | None, ...]:
    """For each class the output of the organ that it is a lesion of; None for an organ, or where the organ is none."""
    names = [[space.channels[channel] for channel in group] for group in space.organ_groups]
    owner = {lesion: organ for organ, *lesions in names for lesion in lesions}
    return tuple(classes.index(owner[name]) if owner.get(name) in classes else None for name in classes)


def build_universal(
    preset: Preset,
    *,
    seed: int,
    classes: Sequence[str] | None = None,
    embeddings: Mapping[str, np.ndarray] | None = None,
) -> UniversalNetwork:
    """The preset's universal network for these classes of its label space (None: all), in the label space's order.

    Each part's first weights follow from the seed and the part's name, a class's vector from ``embeddings`` or from its
    name: a network starts the same whatever classes it has. The caller's random state is kept.
    Raises ConfigError for a patch or widths that the extractor cannot have, for names that are not classes of the label
    space, and for a class without a vector.
    """
    config, space = preset.network, preset.label_space
    check_classes(preset, space.classes if classes is None else classes)
    wanted = [name for name in space.classes if classes is None or name in classes]
    vectors = class_vectors(wanted, config.embedding, embeddings)
    with GENERATOR, torch.random.fork_rng(devices=[]):
        return UniversalNetwork(config, _parts(preset, seed), vectors, space)


def _parts(preset: Preset, seed: int) -> dict[str, nn.Module]:
    config = preset.network
    torch.manual_seed(part_seed(seed, "extractor"))
    extractor = build_extractor(preset)
    makers = {
        "summary": lambda: _summary(extractor.deepest, config.global_features),
        "reduction": lambda: _reduction(config),
        "controller": lambda: _controller(config),
        "head": lambda: _normalised(extractor.full, nn.Conv3d(extractor.full, config.head_channels, 1)),
    }
    parts: dict[str, nn.Module] = {"extractor": extractor}
    for name, make in makers.items():
        torch.manual_seed(part_seed(seed, name))
        parts[name] = make()
    return parts


def _normalised(channels: int, *layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.GroupNorm(group_count(channels), channels), nn.ReLU(), *layers)


def _summary(channels: int, outward: int) -> nn.Sequential:
    """(N, channels, h, w, d) -> (N, outward)."""
    return _normalised(channels, nn.AdaptiveAvgPool3d(1), nn.Conv3d(channels, outward, 1), nn.Flatten())


def _reduction(config: UniversalConfig) -> nn.Sequential:
    """(1, E) -> (1, G). A vector of norm 1 gives numbers of size 1; torch's own start would give 1 / sqrt(E)."""
    linear = nn.Linear(config.embedding, config.global_features)
    nn.init.normal_(linear.weight, std=2**0.5)
    nn.init.zeros_(linear.bias)
    return nn.Sequential(linear, nn.ReLU())


def _controller(config: UniversalConfig) -> nn.Linear:
    """(N, 2 G) -> the numbers of a class's head, which start as He's weights would, its last layer smaller."""
    sizes = layer_sizes(config.head_channels)
    controller = nn.Linear(2 * config.global_features, sum(sizes))
    he = (2 / (config.head_channels * config.global_features)) ** 0.5
    for rows, share in zip(controller.weight.split(sizes), START_SHARES, strict=True):
        nn.init.normal_(rows, std=share * he)
    nn.init.zeros_(controller.bias)
    nn.init.constant_(controller.bias[-1:], START_LOGIT)
    return controller
