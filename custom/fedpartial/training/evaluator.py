"""Whole-volume inference, the quick validation between rounds and the full scores at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from fedpartial.data.preprocess import restore_logits
from fedpartial.data.stored_case import StoredCase
from fedpartial.networks.fusion import LOG_ODDS, Fusion
from fedpartial.presets import Preset
from fedpartial.training.precision import Precision


def predict_logits(
    network: nn.Module,
    image: np.ndarray,
    preset: Preset,
    precision: Precision,
    predictor: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Sliding-window logits (C, H, W, D), float32 on the CPU, for a prepared image (H, W, D).

    predictor: another function of the network than its forward pass, (N 1 H W D) -> (N, C, H, W, D).
    """
    from monai.inferers.utils import sliding_window_inference

    device = precision.device
    volume = torch.from_numpy(np.asarray(image, dtype=np.float32))[None, None].to(device)
    network.eval()
    with torch.inference_mode(), precision.autocast():
        logits = sliding_window_inference(
            volume,
            roi_size=preset.patch,
            sw_batch_size=preset.inference_batch,
            predictor=predictor or network,
            overlap=preset.overlap,
            mode="gaussian",
            cval=preset.air,
            progress=False,
        )
    return logits[0].float().cpu()


def mean_dice(scores: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Mean over the cases of each class."""
    return {name: float(np.mean(values)) for name, values in scores.items()}


def quick_scores(
    network: nn.Module,
    cases: Sequence[StoredCase],
    preset: Preset,
    precision: Precision,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, list[float]]:
    """Dice per labelled class of every case that counts, on the prepared grid.

    A case counts for a class when its reference or its prediction has a voxel of it, so false positives
    score 0 and absent classes do not score at all.
    """
    scores: dict[str, list[float]] = {}
    for case in cases:
        if stop():
            break
        prediction = predict_logits(network, case.image, preset, precision).argmax(0).numpy()
        for name, dice in case_dice(prediction, case.label, case.labelled, preset).items():
            scores.setdefault(name, []).append(dice)
    return scores


def case_dice(prediction: np.ndarray, label: np.ndarray, labelled: np.ndarray, preset: Preset) -> dict[str, float]:
    """Dice per labelled class present in prediction or reference; arrays (H, W, D)."""
    result = {}
    for name in preset.label_space.names(labelled):
        channel = preset.label_space.index(name)
        p, y = prediction == channel, label == channel
        if total := int(p.sum()) + int(y.sum()):
            result[name] = 2.0 * int((p & y).sum()) / total
    return result


def predict_on_original_grid(
    network: nn.Module, case: StoredCase, preset: Preset, precision: Precision, *fusions: Fusion
) -> list[np.ndarray]:
    """By each fusion (default log-odds) channels (uint8, H W D) on the grid of the case's image file.

    With "per-head" one mask each (C H W D). Fusions of the same scores share one pass of the network.
    """
    scores: dict[bool, Tensor] = {}
    found = []
    for fusion in fusions or (LOG_ODDS,):
        stochastic = fusion.rule == "uncertainty"
        if stochastic not in scores:
            scores[stochastic] = predict_logits(fusion.network(network), case.image, preset, precision)
        given = (scores[stochastic], case.affine, case.original_shape, case.original_affine)
        found.append(restore_logits(*given, decide=fusion.decide(preset.label_space)))
    return found
