"""Vector A of METHODS section 9 as tensors; its numbers were computed independently of this package."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

VECTORS = Path(__file__).parents[1] / "vectors.json"
GRID = (2, 2, 1)


def as_volume(rows):
    """Rows of classes, columns of voxels -> (1, C, 2, 2, 1) float64."""
    rows = torch.tensor(rows, dtype=torch.float64)
    return rows.reshape(1, len(rows), *GRID)


@pytest.fixture(scope="session")
def vector_a():
    expected = json.loads(VECTORS.read_text(encoding="utf-8"))["vector_a"]
    num_channels = len(expected["student_logits"])
    labelled = torch.zeros(1, num_channels, dtype=torch.bool)
    labelled[0, expected["labelled_classes"]] = True
    groups = [expected["background_groups"][0], expected["labelled_classes"], *expected["background_groups"][1:]]
    return SimpleNamespace(
        student=as_volume(expected["student_logits"]),
        teacher=as_volume(expected["teacher_logits"]),
        labels=torch.tensor(expected["labels"]).reshape(1, *GRID),
        labelled=labelled,
        groups=torch.tensor([[channel in group for channel in range(num_channels)] for group in groups]),
        background_rows=[0, 2, 3],
        expected=expected,
    )
