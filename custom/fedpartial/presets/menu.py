"""The presets of Fed-MENU: the paper's, and one for a laptop."""

from __future__ import annotations

from dataclasses import replace

from fedpartial.presets.abdomen import PHANTOM
from fedpartial.presets.config import MenuConfig, OptimizerConfig, Preset
from fedpartial.presets.psmos import SIDED_ORGANS

MENU_PAPER = Preset(
    name="menu",
    label_space=SIDED_ORGANS,
    spacing_mm=(1.0, 1.0, 1.5),
    window_hu=(-200.0, 400.0),
    normalise_subtract=-200.0,
    normalise_divide=600.0,
    patch=(256, 256, 32),
    volumes_per_batch=4,
    patches_per_volume=1,
    foreground_fraction=0.5,
    augmentation="segviz",
    overlap=0.5,
    inference_batch=4,
    network=MenuConfig(channels=(20, 40, 80, 160)),
    optimizer=OptimizerConfig(lr=1e-2, momentum=0.99, weight_decay=3e-5, schedule="poly", min_lr=1e-7, clip_norm=None),
    num_rounds=400,
    # One epoch of four volumes a step at the median site: 24, 79, 120, 126 and 169 training cases, so 120 / 4.
    local_steps=30,
    cpu_threads=None,
)
"""Fed-MENU (METHODS 5), with these choices of our own:

The label space is that of FL-PSMOS, so that the methods of one table compare: both kidneys are classes, with one
encoder for the organ, and there is no gallbladder. The augmentation is SegViz's, made for a window 1 wide; the
published one has small turns and shifts only. Neither mirrors a patient. Half of the patches lie around foreground, as
published. Where the published code counts a site's own epochs, every site takes the same steps; its learning rate falls
with every epoch, here with every step.
"""

PHANTOM_MENU = replace(
    PHANTOM,
    name="phantom_menu",
    label_space=SIDED_ORGANS,
    network=MenuConfig(channels=(2, 4, 8, 16)),
    optimizer=replace(PHANTOM.optimizer, schedule="poly", weight_decay=MENU_PAPER.optimizer.weight_decay),
    num_rounds=8,
    local_steps=25,  # 200 steps at every site, as phantom_psmos
)
"""Fed-MENU on a laptop: the network with few channels and the paper's fall of the learning rate. Ours, from
``phantom``: grid, window, patch, augmentation, learning rate, momentum and clipping. A step, both passes, takes 1.4
times the time of a step of ``phantom`` at a site with one organ.
"""
