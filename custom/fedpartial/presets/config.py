"""What a preset is made of: networks, optimiser, and the preset itself, as frozen values."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from fedpartial.labels import LabelSpace


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
class MenuConfig:
    """MENU-Net (METHODS 5): an encoder for every organ of the label space, one shared decoder, an auxiliary decoder.

    channels are those of one encoder, one entry per level; the shared decoder is as wide as all encoders together.
    """

    channels: tuple[int, ...]

    @property
    def strides(self) -> tuple[tuple[int, int, int], ...]:
        """Steps down: max pooling after every level."""
        return ((2, 2, 2),) * len(self.channels)

    @property
    def num_outputs(self) -> int:
        """Outputs in training: no deep supervision enters the loss."""
        return 1


@dataclass(frozen=True, kw_only=True)
class UniversalConfig:
    """The universal network of MMDS (METHODS 4.1): an extractor of features, and for each class a head that is made of
    the class's embedding and the image's features.

    extractor: "unet", channels one per level, or "swin_unetr", channels (feature size,). embedding: length of a class's
    vector. global_features: what the image and a class's vector are each reduced to. head_channels: width of a head.
    """

    extractor: Literal["unet", "swin_unetr"]
    channels: tuple[int, ...]
    embedding: int = 512
    global_features: int = 256
    head_channels: int = 8

    @property
    def strides(self) -> tuple[tuple[int, int, int], ...]:
        """Steps down: max pooling between levels; the patches and four mergings of a Swin transformer."""
        return ((2, 2, 2),) * (5 if self.extractor == "swin_unetr" else len(self.channels) - 1)

    @property
    def num_outputs(self) -> int:
        """Outputs in training: no deep supervision."""
        return 1


AnyNetwork = NetworkConfig | UNetConfig | MenuConfig | UniversalConfig


@dataclass(frozen=True, kw_only=True)
class Plateau:
    """lr is multiplied by factor when the loss has not fallen by drop (absolute) within the last ``steps`` steps."""

    steps: int
    drop: float
    factor: float


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """SGD with Nesterov momentum (METHODS 1.4), Adam (METHODS 2.2) or AdamW (METHODS 4.2), and how the learning rate
    falls from lr.

    schedule: "cosine" over all local steps to min_lr; "warmup_cosine", linear from 0 over the first ``warmup`` of them
    (a share), then cosine (METHODS 4.2); "poly", lr (1 - t/T)^0.9 over all local steps, not below min_lr (METHODS 5);
    "plateau", by the site's own loss as ``plateau`` says (METHODS 3.4), not below min_lr.
    momentum belongs to SGD, betas and eps to Adam and AdamW. weight_decay is added to the gradient; AdamW's shrinks the
    weights themselves. clip_norm None: no clipping.
    """

    kind: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: float
    momentum: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float
    schedule: Literal["cosine", "warmup_cosine", "poly", "plateau"] = "cosine"
    warmup: float = 0.0
    plateau: Plateau | None = None
    min_lr: float
    clip_norm: float | None


@dataclass(frozen=True, kw_only=True)
class Preset:
    """What all sites of a federation share.

    spacing_mm is along the R, A, S axes of the canonical grid; patch is in voxels of that grid (H W D);
    intensities are clipped to window_hu, then (x - normalise_subtract) / normalise_divide. overlap and
    inference_batch belong to the sliding window: PyTorch convolves a single small patch on a CPU thread
    five times slower than a pair. num_rounds, local_steps, and finetune_steps, pretrain_rounds, validate_every and
    distil_steps (of a job with these phases) are what the preset was sized for; a job states its own. cpu_threads fixes
    torch's threads on CPU sites, so that sums do not depend on how many sites share the machine; None leaves torch's
    choice.

    patch_keep says which patches are trained on (METHODS 3.4): "nnunet_oversample", all, of which foreground_fraction
    are drawn around foreground; "fg_voxel_fraction" and "organ_coverage" draw again until a patch has more than
    patch_keep_fraction of annotated foreground, or of the voxels of one annotated class (fedpartial.data.patch_keep).
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
    network: AnyNetwork
    optimizer: OptimizerConfig
    num_rounds: int
    local_steps: int
    cpu_threads: int | None
    finetune_steps: int = 0
    pretrain_rounds: int = 0
    validate_every: int = 1
    patch_keep: Literal["nnunet_oversample", "fg_voxel_fraction", "organ_coverage"] = "nnunet_oversample"
    patch_keep_fraction: float = 0.33
    distil_steps: int = 0

    @property
    def air(self) -> float:
        """Normalised intensity of air (the window's lower end), used for padding."""
        return (self.window_hu[0] - self.normalise_subtract) / self.normalise_divide

    def as_dict(self) -> dict:
        """Plain values, for reports and for keys of the case store."""
        return asdict(self)
