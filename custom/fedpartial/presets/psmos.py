"""The presets of FL-PSMOS: the paper's, and one for a laptop."""

from __future__ import annotations

from dataclasses import replace

from fedpartial.labels import LabelSpace
from fedpartial.presets.abdomen import ORGANS, PHANTOM
from fedpartial.presets.config import NetworkConfig, OptimizerConfig, Plateau, Preset

SIDED_ORGANS = LabelSpace(
    organs=tuple(replace(organ, sides=True) if organ.name == "kidney" else organ for organ in ORGANS.organs),
    merge_lesions=True,
)
"""Liver, spleen, pancreas, right and left kidney (METHODS 3.4); a tumour counts as its organ."""

_LEVELS = 6
PSMOS_PAPER = Preset(
    name="psmos",
    label_space=SIDED_ORGANS,
    spacing_mm=(1.63, 1.63, 2.41),
    window_hu=(-160.0, 240.0),
    normalise_subtract=90.9,
    normalise_divide=65.5,
    patch=(128, 160, 80),
    volumes_per_batch=2,
    patches_per_volume=1,
    foreground_fraction=0.33,
    augmentation="condistfl",
    overlap=0.5,
    inference_batch=1,
    network=NetworkConfig(
        kernels=((3, 3, 3),) * _LEVELS,
        strides=((1, 1, 1),) + ((2, 2, 2),) * (_LEVELS - 2) + ((2, 2, 1),),
        filters=(32, 64, 128, 256, 320, 320),
        deep_supervision_heads=3,
    ),
    optimizer=OptimizerConfig(
        lr=1e-2,
        momentum=0.99,
        weight_decay=3e-5,
        schedule="plateau",
        plateau=Plateau(steps=2500, drop=1e-3, factor=0.8),  # 10 epochs of 250
        min_lr=1e-6,
        clip_norm=12.0,
    ),
    num_rounds=2600,  # those of pretraining, then the paper's 2000
    pretrain_rounds=600,  # 120 epochs of 250 steps
    validate_every=50,
    local_steps=50,
    cpu_threads=None,
)
"""FL-PSMOS (METHODS 3.4): spacing, normalisation, patch, learning rate and its drop, steps and rounds are the paper's.

Network, momentum, weight decay and clipping are nnU-Net's, which the paper builds on. Ours: the window, where nnU-Net
clips to percentiles 0.5 and 99.5 of the foreground, which the paper does not give; the augmentation, ConDistFL's list
being the nearest to nnU-Net's (without nnU-Net's flip from right to left, which would teach wrong sides); the lowest
rate; how often the global model is scored. "Only patches whose target area > 33 %" is read as nnU-Net's third of
patches around foreground; ``patch_keep`` has the literal readings.
"""

PHANTOM_PSMOS = replace(
    PHANTOM,
    name="phantom_psmos",
    label_space=SIDED_ORGANS,
    foreground_fraction=PSMOS_PAPER.foreground_fraction,
    optimizer=replace(PHANTOM.optimizer, schedule="plateau", plateau=replace(PSMOS_PAPER.optimizer.plateau, steps=20)),
    num_rounds=20,
    pretrain_rounds=4,
    validate_every=4,
    local_steps=10,
)
"""FL-PSMOS on a laptop. The paper's: label space, foreground patches, drop and factor of the learning rate, many rounds
of few steps. Ours, from ``phantom``: grid, window, patch, network without deep supervision, augmentation (intensities
only, no mirrored patients), learning rate, momentum and clipping. Ours too: a plateau of 20 steps.
"""
