"""Presets: everything a federation agrees on before it trains, as frozen values.

A preset owns the label space, the voxel grid, the intensity window, the patch, the network and the
optimisation constants. Jobs name a preset; sites never repeat what it says.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Literal

from fedpartial.errors import ConfigError
from fedpartial.labels import LabelSpace, Organ

ABDOMEN = LabelSpace(
    organs=(
        Organ(name="liver", lesions=("liver_tumor",)),
        Organ(name="spleen"),
        Organ(name="pancreas", lesions=("pancreas_tumor",)),
        Organ(name="kidney", lesions=("kidney_tumor",)),
    )
)
"""The eight channels of ConDistFL (METHODS section 0)."""


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """MONAI DynUNet: one entry of kernels, strides and filters per level."""

    kernels: tuple[tuple[int, int, int], ...]
    strides: tuple[tuple[int, int, int], ...]
    filters: tuple[int, ...]
    deep_supervision_heads: int

    @property
    def num_outputs(self) -> int:
        """Outputs in training: the full-resolution head and the deep-supervision heads."""
        return 1 + self.deep_supervision_heads


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """MONAI UNet with residual units and batch normalisation (METHODS 2.1), split into a trunk and heads.

    channels has one entry per level, strides one per step down, so one fewer. initialisation of the convolutions:
    "default" is torch's, "lecun" normal with variance 1 / fan-in and zero biases (METHODS 2.2, paper P2).
    """

    channels: tuple[int, ...]
    strides: tuple[tuple[int, int, int], ...]
    num_res_units: int
    initialisation: Literal["default", "lecun"]

    @property
    def num_outputs(self) -> int:
        """Outputs in training: no deep supervision."""
        return 1


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """SGD with Nesterov momentum (METHODS 1.4) or Adam (METHODS 2.2); a cosine over all local steps from lr to min_lr.

    momentum belongs to SGD, betas and eps to Adam. weight_decay is added to the gradient. clip_norm None: no clipping.
    """

    kind: Literal["sgd", "adam"] = "sgd"
    lr: float
    momentum: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float
    min_lr: float
    clip_norm: float | None


@dataclass(frozen=True, kw_only=True)
class Preset:
    """What all sites of a federation share.

    spacing_mm is along the R, A, S axes of the canonical grid; patch is in voxels of that grid (H W D);
    intensities are clipped to window_hu, then (x - normalise_subtract) / normalise_divide. overlap and
    inference_batch belong to the sliding window: PyTorch convolves a single small patch on a CPU thread
    five times slower than a pair. num_rounds, local_steps and finetune_steps (of a job with that phase) are what the
    preset was sized for; a job states its own. cpu_threads fixes torch's threads on CPU sites, so that sums do not
    depend on how many sites share the machine; None leaves torch's choice.
    """

    name: str
    label_space: LabelSpace
    spacing_mm: tuple[float, float, float]
    window_hu: tuple[float, float]
    normalise_subtract: float
    normalise_divide: float
    patch: tuple[int, int, int]
    volumes_per_batch: int
    patches_per_volume: int
    foreground_fraction: float
    augmentation: Literal["none", "light", "condistfl", "segviz"]
    overlap: float
    inference_batch: int
    network: NetworkConfig | UNetConfig
    optimizer: OptimizerConfig
    num_rounds: int
    local_steps: int
    cpu_threads: int | None
    finetune_steps: int = 0

    @property
    def air(self) -> float:
        """Normalised intensity of air (the window's lower end), used for padding."""
        return (self.window_hu[0] - self.normalise_subtract) / self.normalise_divide

    def as_dict(self) -> dict:
        """Plain values, for reports and for keys of the case store."""
        return asdict(self)


_LEVELS = 4
PHANTOM = Preset(
    name="phantom",
    label_space=ABDOMEN,
    spacing_mm=(6.0, 6.0, 6.0),
    window_hu=(-54.0, 258.0),
    normalise_subtract=100.0,
    normalise_divide=50.0,
    patch=(32, 32, 32),
    volumes_per_batch=2,
    patches_per_volume=1,
    foreground_fraction=2 / 3,
    augmentation="light",
    overlap=0.5,
    inference_batch=4,
    network=NetworkConfig(
        kernels=((3, 3, 3),) * _LEVELS,
        strides=((1, 1, 1),) + ((2, 2, 2),) * (_LEVELS - 1),
        filters=(8, 16, 32, 64),
        # A head more cost a tumour class at this budget (docs/results.md); the paper's preset has three.
        deep_supervision_heads=0,
    ),
    optimizer=OptimizerConfig(lr=0.15, momentum=0.9, weight_decay=1e-5, min_lr=1e-4, clip_norm=1.0),
    num_rounds=8,
    local_steps=45,
    cpu_threads=1,
)

PHANTOM_COARSE = replace(PHANTOM, name="phantom_coarse", spacing_mm=(8.0, 8.0, 8.0), patch=(24, 24, 24))
"""For tables of many runs: the same field of view in 42 % of the voxels, at two thirds of the cost of a run."""

_PAPER_LEVELS = 6
ABDOMEN_PAPER = Preset(
    name="abdomen",
    label_space=ABDOMEN,
    spacing_mm=(1.44423774, 1.44423774, 2.87368553),
    window_hu=(-54.0, 258.0),
    normalise_subtract=100.0,
    normalise_divide=50.0,
    patch=(224, 224, 64),
    volumes_per_batch=2,
    patches_per_volume=2,
    foreground_fraction=2 / 3,
    augmentation="condistfl",
    overlap=0.5,
    inference_batch=1,
    network=NetworkConfig(
        kernels=((3, 3, 1),) + ((3, 3, 3),) * (_PAPER_LEVELS - 1),
        strides=((1, 1, 1), (2, 2, 1)) + ((2, 2, 2),) * (_PAPER_LEVELS - 2),
        filters=(32, 64, 128, 256, 320, 320),
        deep_supervision_heads=3,
    ),
    optimizer=OptimizerConfig(lr=1e-2, momentum=0.99, weight_decay=1e-5, min_lr=1e-7, clip_norm=1.0),
    num_rounds=120,
    local_steps=1000,
    cpu_threads=None,
)

ORGANS = replace(ABDOMEN, merge_lesions=True)
"""Background and the four organs: a tumour counts as its organ (METHODS 2.5)."""

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

PRESETS = {preset.name: preset for preset in (PHANTOM, PHANTOM_COARSE, ABDOMEN_PAPER, PHANTOM_SEGVIZ, SEGVIZ_PAPER)}


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
