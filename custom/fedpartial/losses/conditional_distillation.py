"""Conditional distillation: the global model teaches a site what its labels leave out.

Given that a voxel is none of the site's own classes, student and teacher should agree on which group
of unlabelled classes it belongs to (ConDistFL Eq 3-8; METHODS 1.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fedpartial.losses.marginal import DICE_SMOOTHING
from fedpartial.losses.voxel_sums import at_least_float, plain, voxel_sums

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
    _check_temperature(temperature)
    hidden = _hidden_channels(labelled, groups)
    found = [_conditional(at_least_float(z), h, temperature, conditional) for z, h in zip(logits, hidden, strict=True)]
    return torch.stack([_by_group(rows, h, len(groups)) for rows, h in zip(found, hidden, strict=True)])


def distillation_mask(teacher_logits: Tensor, labels: Tensor, labelled: Tensor) -> Tensor:
    """Bool (N, *S): False where the label or the teacher's most likely channel is a labelled class.

    Where a labelled and an unlabelled channel are equally likely, which half precision makes possible, the labelled one
    counts as the teacher's.
    """
    annotated = [row.nonzero().flatten().tolist() for row in labelled]
    return torch.stack([_mask(*case) for case in zip(plain(teacher_logits), plain(labels), annotated, strict=True)])


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
    _check_temperature(temperature)
    hidden, num_groups = _hidden_channels(labelled, groups), len(groups)
    annotated = [row.nonzero().flatten().tolist() for row in labelled]

    def statistics(n: int, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        mask = _mask(teacher, labels, annotated[n]).flatten()
        pair = (_conditional(at_least_float(z), hidden[n], temperature, conditional) for z in (student, teacher))
        s, t = (rows.flatten(1) * mask for rows in pair)
        size = s.square() + t.square() if denominator == "squared" else s + t
        sums = torch.stack(((s * t).sum(1), size.sum(1)))
        return _by_group(sums.T, hidden[n], num_groups).T.flatten()

    found = voxel_sums(statistics, student_logits, plain(teacher_logits).detach(), labels)
    overlap, size = found.sum(0).view(2, -1)
    loss = 1 - 2 * overlap / (size + DICE_SMOOTHING)
    valid = (groups[None] & ~labelled[:, None]).any(-1).any(0)
    return loss[valid].mean().to(torch.promote_types(student_logits.dtype, torch.float32))


@dataclass(frozen=True, kw_only=True)
class _Hidden:
    """A case's unlabelled channels, ordered by group: ``groups`` are those that have one, ``members`` how many each."""

    channels: list[int]
    labelled: list[int]
    groups: list[int]
    members: list[int]


def _hidden_channels(labelled: Tensor, groups: Tensor) -> list[_Hidden]:
    """One entry for each case."""
    members, found = [row.nonzero().flatten().tolist() for row in groups], []
    for case in labelled.tolist():
        by_group = {g: [c for c in channels if not case[c]] for g, channels in enumerate(members)}
        by_group = {g: channels for g, channels in by_group.items() if channels}
        found.append(
            _Hidden(
                channels=[c for channels in by_group.values() for c in channels],
                labelled=[c for c, known in enumerate(case) if known],
                groups=list(by_group),
                members=[len(channels) for channels in by_group.values()],
            )
        )
    return found


def _conditional(z: Tensor, hidden: _Hidden, temperature: float, conditional: Conditional) -> Tensor:
    """(C, *s) of one case -> (len(hidden.groups), *s)."""
    if conditional == "exact":
        p = (z[hidden.channels] / temperature).softmax(0)
    else:
        every = (z / temperature).softmax(0)
        p = every[hidden.channels] / (1 - every[hidden.labelled].sum(0, keepdim=True) + UPSTREAM_EPSILON)
    if len(hidden.members) == len(hidden.channels):
        return p
    return torch.stack([part.sum(0) for part in p.split(hidden.members)])


def _by_group(rows: Tensor, hidden: _Hidden, num_groups: int) -> Tensor:
    """(len(hidden.groups), ...) -> (num_groups, ...), 0 for the others."""
    place = torch.tensor(hidden.groups, device=rows.device)
    return rows.new_zeros(num_groups, *rows.shape[1:]).index_copy(0, place, rows)


def _mask(teacher: Tensor, labels: Tensor, annotated: list[int]) -> Tensor:
    """Bool (*s) of one case; see ``distillation_mask``."""
    if not annotated:
        return torch.ones_like(labels, dtype=torch.bool)
    rest = [channel for channel in range(len(teacher)) if channel not in annotated]
    mask = teacher[rest].amax(0) > teacher[annotated].amax(0)
    for channel in annotated:
        mask &= labels != channel
    return mask


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise ValueError(f"temperature: got {temperature!r}; expected a number above 0. Correct args.method.")
