"""The presets of SegViz: the papers', and one for a laptop."""

from __future__ import annotations

from dataclasses import replace

from fedpartial.presets.abdomen import ORGANS
from fedpartial.presets.config import OptimizerConfig, Preset, UNetConfig

SEGVIZ_PAPER = Preset(
    name="segviz",
    label_space=ORGANS,
    spacing_mm=(1.5, 1.5, 2.0),
    window_hu=(-175.0, 250.0),
    normalise_subtract=-175.0,
    normalise_divide=425.0,
    patch=(128, 128, 32),
    volumes_per_batch=2,
    patches_per_volume=4,
    foreground_fraction=0.5,
    augmentation="segviz",
    overlap=0.25,
    inference_batch=4,
    network=UNetConfig(
        channels=(16, 32, 64, 128, 256), strides=((2, 2, 2),) * 4, num_res_units=2, initialisation="lecun"
    ),
    optimizer=OptimizerConfig(kind="adam", lr=1e-4, weight_decay=0.0, min_lr=1e-9, clip_norm=None),
    num_rounds=50,
    # Ten epochs of two volumes a step at the median site: 32, 106, 168 and 225 training cases, so 10 * 137 / 2.
    local_steps=685,
    finetune_steps=10_275,  # 150 epochs
    cpu_threads=None,
)
"""SegViz (METHODS 2.1 to 2.5), with these choices of our own:

One window for all sites, that of the papers' external set; the papers give every data set its own, and a model for all
organs then meets intensities that it never saw. Volumes are not resized to 256 x 256 x 128, which undoes the spacing.
Where the papers count a site's own epochs, every site takes the same steps. The cosine ends with the run.
"""

PHANTOM_SEGVIZ = replace(
    SEGVIZ_PAPER,
    name="phantom_segviz",
    spacing_mm=(6.0, 6.0, 6.0),
    patch=(32, 32, 32),
    patches_per_volume=2,
    overlap=0.5,
    network=replace(SEGVIZ_PAPER.network, channels=(8, 16, 32, 64, 128)),
    optimizer=replace(SEGVIZ_PAPER.optimizer, lr=1e-2),
    num_rounds=8,
    local_steps=45,
    finetune_steps=90,
    cpu_threads=1,
)
"""SegViz on a laptop: half as many channels, coarse voxels, and a learning rate for 360 steps."""
