"""The presets of MMDS: the paper's, and two for a laptop, one for each kind of extractor."""

from __future__ import annotations

from dataclasses import replace

from fedpartial.labels import LabelSpace, Organ
from fedpartial.presets.abdomen import ABDOMEN, PHANTOM
from fedpartial.presets.config import OptimizerConfig, Preset, UniversalConfig

GREAT_VESSELS = LabelSpace(organs=(*ABDOMEN.organs, Organ(name="aorta"), Organ(name="vena_cava")))
"""The classes of ConDistFL and two vessels, which a site of the phantom brings into the federation late."""

ORGANS_AND_LESIONS = LabelSpace(
    organs=(
        Organ(name="spleen"),
        Organ(name="kidney", lesions=("kidney_tumor", "kidney_cyst")),
        Organ(name="gallbladder"),
        Organ(name="esophagus"),
        Organ(name="liver", lesions=("liver_tumor",)),
        Organ(name="stomach"),
        Organ(name="aorta"),
        Organ(name="vena_cava"),
        Organ(name="pancreas", lesions=("pancreas_tumor",)),
        Organ(name="adrenal_gland_right"),
        Organ(name="adrenal_gland_left"),
        Organ(name="duodenum"),
        Organ(name="bladder"),
        Organ(name="prostate_uterus"),
    )
)
"""The 19 classes of the paper (METHODS 4.4) with right and left kidney as one, so 18: a lesion of an organ with
sides would need sides of its own (fedpartial.labels)."""

MMDS_PAPER = Preset(
    name="mmds",
    label_space=ORGANS_AND_LESIONS,
    spacing_mm=(1.5, 1.5, 1.5),
    window_hu=(-175.0, 250.0),
    normalise_subtract=-175.0,
    normalise_divide=425.0,
    patch=(96, 96, 96),
    volumes_per_batch=2,
    patches_per_volume=2,
    foreground_fraction=2 / 3,
    augmentation="light",
    overlap=0.5,
    inference_batch=1,
    network=UniversalConfig(extractor="unet", channels=(64, 128, 256, 512)),
    optimizer=OptimizerConfig(
        kind="adamw", lr=1e-4, weight_decay=1e-5, schedule="warmup_cosine", warmup=0.05, min_lr=1e-9, clip_norm=None
    ),
    num_rounds=1,
    local_steps=100_000,
    distil_steps=100_000,
    cpu_threads=None,
)
"""MMDS (METHODS 4.1, 4.2): spacing, window, patch, network, learning rate and decay are the universal model's.

The paper trains 1000 epochs with 50 of warm-up. An epoch has as many steps as a site has cases, so the lengths here
are ours: 1000 epochs of 100 steps, the mean of its sites (200 cases, 2 of them in a batch). Its augmentation (quarter
turns, shifted intensities) is replaced by ``light``, intensities only.
"""

PHANTOM_MMDS = replace(
    PHANTOM,
    name="phantom_mmds",
    label_space=GREAT_VESSELS,
    network=UniversalConfig(extractor="unet", channels=(8, 16, 32, 64), embedding=64, global_features=32),
    optimizer=replace(MMDS_PAPER.optimizer, lr=2e-3),
    num_rounds=1,
    local_steps=250,
    distil_steps=400,
)
"""MMDS on a laptop: the paper's objective, optimiser and schedule on the grid of ``phantom``. Ours: the widths, the
learning rate, the lengths."""

PHANTOM_MMDS_SWIN = replace(
    PHANTOM_MMDS,
    name="phantom_mmds_swin",
    network=replace(PHANTOM_MMDS.network, extractor="swin_unetr", channels=(12,)),
)
"""The same with another extractor: sites of one federation may differ in it (METHODS 4.5)."""

MMDS_PAPER_SWIN = replace(
    MMDS_PAPER, name="mmds_swin", network=replace(MMDS_PAPER.network, extractor="swin_unetr", channels=(48,))
)
