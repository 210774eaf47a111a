"""The validation step of the reference's run_validate.py behind its network, for ``metrics.py``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from reference_code import cuda_means, find_reference


class ByReference:
    """The reference's Validator, whose network answers at once: Dice of every class."""

    def __init__(self, folder: Path, classes: Sequence[str]):
        """folder: its checkout. Raises ConfigError for another folder."""
        find_reference(folder).use()
        from validator import Validator

        self.num_channels = 1 + len(classes)
        inferer = {"roi_size": (96, 96, 96), "sw_batch_size": 1}
        foreground = {"foreground": list(range(1, self.num_channels))}
        self.validator = Validator(
            {"classes": ["background", *classes], "inferer": inferer, "condist_config": foreground}
        )

    def given(self, prediction: np.ndarray, reference: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores (1 C H W D), float32, and labels (1 1 H W D), as a network and a loader give them."""
        channels = torch.arange(self.num_channels, dtype=torch.uint8).view(-1, 1, 1, 1)
        scores = (torch.from_numpy(np.ascontiguousarray(prediction)) == channels).float()
        return scores[None], torch.from_numpy(np.ascontiguousarray(reference))[None, None].float()

    def __call__(self, scores: torch.Tensor, labels: torch.Tensor) -> np.ndarray:
        self.validator.inferer = lambda image, network: scores
        with torch.no_grad(), cuda_means("cpu"):
            self.validator.validate_step(None, {"image": scores[:, :1], "label": labels})
        dices = self.validator.metric.aggregate().numpy()
        self.validator.metric.reset()
        return dices[1:]
