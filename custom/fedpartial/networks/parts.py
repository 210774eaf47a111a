"""Encoder and decoder of a network by the names of its tensors (site adaptation, METHODS 3.5)."""

from __future__ import annotations

from fedpartial.errors import ConfigError
from fedpartial.presets import AnyNetwork, MenuConfig, NetworkConfig, UniversalConfig

ENCODERS: dict[type, tuple[str, ...]] = {
    NetworkConfig: ("input_block.", "downsamples.", "bottleneck."),
    MenuConfig: ("encoders.",),
    UniversalConfig: ("extractor.down.", "extractor.swinViT.", "extractor.encoder"),
}
"""Beginnings of the names that belong to the encoder, by kind of network. What is left is the decoder."""


def check_has_parts(config: AnyNetwork) -> None:
    """Raise ConfigError for a network whose encoder and decoder the names do not tell."""
    if type(config) not in ENCODERS:
        raise ConfigError(
            where="job",
            field="preset",
            got=f"a network of kind {type(config).__name__}",
            expected=f"one of {', '.join(kind.__name__ for kind in ENCODERS)}",
            remedy="Adapt all parts, or choose a preset whose network has an encoder and a decoder.",
        )


def is_encoder(name: str, config: AnyNetwork) -> bool:
    """Whether a tensor belongs to the encoder, the lowest level (bottleneck) included."""
    check_has_parts(config)
    return name.startswith(ENCODERS[type(config)])
