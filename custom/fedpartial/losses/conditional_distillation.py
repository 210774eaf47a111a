"""Conditional distillation: the global model teaches a site what its labels leave out.

Given that a voxel is none of the site's own classes, student and teacher should agree on which group
of unlabelled classes it belongs to (ConDistFL Eq 3-8; METHODS 1.2).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from fedpartial.losses.marginal import DICE_SMOOTHING, flat_logits, is_labelled, plain

UPSTREAM_EPSILON = 1e-5
Denominator = Literal["linear", "squared"]
Conditional = Literal["exact", "upstream"]


def conditional_probabilities(
    logits: Tensor, labelled: Tensor, groups: Tensor, temperature: float, *, conditional: Conditional = "exact"
) -> Tensor:
    """Probability of each group, given that the voxel belongs to no labelled class (Eq 3-7).

    Args:
        logits: (N, C, *S).
        labelled: bool (N, C); labelled channels take no part in any group of that case.
        groups: bool (G, C), a partition of the channels (LabelSpace.group_matrix).
        temperature: softmax temperature above 0; below 1 sharpens.
        conditional: "exact" is the softmax restricted to unlabelled channels; "upstream" divides by
            1 - p(labelled) + 1e-5 as the published code does, which fades where p(labelled) nears 1.

    Returns:
        (N, G, *S); a group whose channels are all labelled has probability 0.
    """
    if not temperature > 0:
        raise ValueError(f"temperature: got {temperature!r}; expected a number above 0. Correct args.method.")
    scaled = flat_logits(logits) / temperature
    hidden = labelled[:, :, None]
    if conditional == "exact":
        grouped = _group_sums(scaled.masked_fill(hidden, -torch.inf).softmax(dim=1), groups)
    else:
        probabilities = scaled.softmax(dim=1)
        unlabelled = probabilities.masked_fill(hidden, 0.0)
        foreground = (probabilities - unlabelled).sum(dim=1, keepdim=True)
        grouped = _group_sums(unlabelled, groups) / (1 - foreground + UPSTREAM_EPSILON)
    return grouped.unflatten(2, logits.shape[2:])


def _group_sums(probabilities: Tensor, groups: Tensor) -> Tensor:
    """(N, C, V) -> (N, G, V); autocast would otherwise run the product in half precision."""
    with torch.autocast(probabilities.device.type, enabled=False):
        return torch.matmul(groups.to(probabilities.dtype), probabilities)


def distillation_mask(teacher_logits: Tensor, labels: Tensor, labelled: Tensor) -> Tensor:
    """Bool (N, *S): False where the label or the teacher's most likely channel is a labelled class."""
    teacher = plain(teacher_logits).argmax(dim=1).flatten(1)
    mask = ~is_labelled(plain(labels).flatten(1).long(), labelled) & ~labelled.gather(1, teacher)
    return mask.unflatten(1, teacher_logits.shape[2:])


def conditional_distillation(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    labelled: Tensor,
    groups: Tensor,
    *,
    temperature: float = 0.5,
    denominator: Denominator = "linear",
    conditional: Conditional = "exact",
) -> Tensor:
    """Soft Dice between student and teacher over the groups of unlabelled classes (Eq 8), a scalar.

    Masked voxels leave numerator and denominator; sums run over the batch; the mean runs over groups
    that are unlabelled in at least one case. With every voxel masked the loss is 1 without gradient.
    The linear denominator is the paper's; only the squared one is 0 at agreement (METHODS 1.2).
    """
    with torch.no_grad():
        mask = distillation_mask(teacher_logits, labels, labelled).flatten(1)[:, None]
        teacher = _conditional(teacher_logits, labelled, groups, temperature, conditional) * mask
    student = _conditional(student_logits, labelled, groups, temperature, conditional) * mask
    overlap = (student * teacher).sum(-1)
    size = (student.square() + teacher.square() if denominator == "squared" else student + teacher).sum(-1)
    valid = (groups[None] & ~labelled[:, None]).any(-1)
    overlap, size = (overlap * valid).sum(0), (size * valid).sum(0)
    loss = 1 - 2 * overlap / (size + DICE_SMOOTHING)
    return loss[valid.any(0)].mean()


def _conditional(logits: Tensor, labelled: Tensor, groups: Tensor, temperature: float, conditional: Conditional):
    return conditional_probabilities(logits, labelled, groups, temperature, conditional=conditional).flatten(2)
