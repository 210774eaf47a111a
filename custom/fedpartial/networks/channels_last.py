"""Layers that leave channels-last memory as it is: InstanceNorm with LeakyReLU, and the pointwise convolution.

torch's instance_norm copies a channels-last tensor to the other layout and the next convolution copies it back: more
than a quarter of a training step on a CPU. A sample of a channels-last batch is a matrix (voxels, channels). It is
taken in blocks that stay in the processor's cache: one pass for the statistics, one for the result.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

aten = torch.ops.aten
BLOCK = 2**17
"""Numbers in a block for each thread: half a mebibyte in float32."""
WHOLE = 2**18
"""A sample of so many numbers or fewer is taken at once."""
ROW = 256
"""Numbers in a row, at most."""


class InstanceNormLeakyReLU(nn.InstanceNorm3d):
    """leaky_relu(instance_norm(x)) of (N, C, H, W, D), with the parameters of ``norm``, under their names.

    The fast way is taken on a CPU, and its result is channels-last whatever x was; everywhere else, and when the
    network is exported, the two plain operations. Both agree within rounding; sums over voxels are kept in float64.
    """

    def __init__(self, norm: nn.InstanceNorm3d, slope: float):
        super().__init__(norm.num_features, eps=norm.eps, affine=True)
        self.weight, self.bias, self.slope = norm.weight, norm.bias, slope

    def forward(self, x: Tensor) -> Tensor:
        if is_eager_cpu(x) and x[0, 0].numel() > 1:
            x = x.contiguous(memory_format=torch.channels_last_3d)
            return _NormAct.apply(x, self.weight, self.bias, self.eps, self.slope)
        return F.leaky_relu(super().forward(x), self.slope, inplace=True)


class PointwiseConv(nn.Conv3d):
    """A convolution of 1 x 1 x 1 with the parameters of ``conv``: on a CPU a matrix product over channels-last memory.

    torch's own way with one thread copies the image to the other layout and back.
    """

    def __init__(self, conv: nn.Conv3d):
        super().__init__(conv.in_channels, conv.out_channels, conv.kernel_size, bias=conv.bias is not None)
        self.weight, self.bias = conv.weight, conv.bias

    def forward(self, x: Tensor) -> Tensor:
        if is_eager_cpu(x):
            return F.linear(x.permute(0, 2, 3, 4, 1), self.weight.flatten(1), self.bias).permute(0, 4, 1, 2, 3)
        return super().forward(x)


def is_eager_cpu(x: Tensor) -> bool:
    """Whether operations may be chosen for this tensor's memory: nothing is being exported."""
    return x.device.type == "cpu" and not (torch.jit.is_tracing() or torch.compiler.is_compiling())


class _NormAct(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, eps: float, slope: float) -> Tensor:
        y, stacked = torch.empty_like(x), _stacked(x)
        pairs = zip(_matrices(x, stacked), _matrices(y, stacked), strict=True)
        moments = [_normalise(rows, out, weight, bias, eps, slope, stacked) for rows, out in pairs]
        ctx.save_for_backward(x, y, weight)
        ctx.moments, ctx.slope = moments, slope
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, y, weight = ctx.saved_tensors
        grad_x, stacked = torch.empty_like(x), _stacked(x)
        grad = grad.contiguous(memory_format=torch.channels_last_3d)
        matrices = (_matrices(t, stacked) for t in (x, y, grad, grad_x))
        total = sum(
            _gradients(rows, acted, given, out, weight, *moments, ctx.slope, stacked)
            for rows, acted, given, out, moments in zip(*matrices, ctx.moments, strict=True)
        )
        return grad_x, *total.to(weight.dtype), None, None


def _normalise(
    rows: Tensor, out: Tensor, weight: Tensor, bias: Tensor, eps: float, slope: float, stacked: int
) -> tuple[Tensor, Tensor]:
    """One sample; returns its mean and 1 / standard deviation (C,), which the gradient needs."""
    if rows.numel() <= WHOLE:
        mean, rstd = (torch.empty_like(weight) for _ in range(2))
        saved = {"save_mean": mean, "save_invstd": rstd}
        rows, out = (t.view(-1, len(weight)) for t in (rows, out))
        aten.native_batch_norm.out(rows, weight, bias, None, None, True, 0.0, eps, out=out, **saved)
        aten.leaky_relu_(out, slope)
        return mean, rstd
    mean, var = _moments(rows, stacked)
    m, v, w, b = (_wide(given, rows, stacked) for given in (mean, var, weight, bias))
    unused = {"save_mean": m.new_empty(0), "save_invstd": m.new_empty(0)}
    for block, target in zip(_blocks(rows), _blocks(out), strict=True):
        aten.native_batch_norm.out(block, w, b, m, v, False, 0.0, eps, out=target, **unused)
        aten.leaky_relu_(target, slope)
    return mean, (var + eps).rsqrt()


def _gradients(
    rows: Tensor,
    acted: Tensor,
    given: Tensor,
    out: Tensor,
    weight: Tensor,
    mean: Tensor,
    rstd: Tensor,
    slope: float,
    stacked: int,
) -> Tensor:
    """One sample: the gradient of x into ``out``; those of weight and bias, (2, C)."""
    if rows.numel() <= WHOLE:
        rows, acted, given, out = (t.view(-1, len(weight)) for t in (rows, acted, given, out))
        passed = aten.leaky_relu_backward(given, acted, slope, True)
        found = aten.native_batch_norm_backward(passed, rows, weight, None, None, mean, rstd, True, 0.0, [True] * 3)
        out.copy_(found[0])
        return torch.stack(found[1:])
    for after, gradient, target in zip(_blocks(acted), _blocks(given), _blocks(out), strict=True):
        aten.leaky_relu_backward.grad_input(gradient, after, slope, True, grad_input=target)
    sums = _gradient_sums(rows, out, mean, rstd, stacked)
    _to_input(rows, out, mean, rstd, weight, sums / (len(rows) * stacked), stacked)
    return sums


def _stacked(x: Tensor) -> int:
    """How many voxels stand in one row, so that a row of few channels is long enough for vector instructions."""
    channels, voxels = x.shape[1], x[0, 0].numel()
    return next(k for k in (32, 16, 8, 4, 2, 1) if voxels % k == 0 and (k == 1 or k * channels <= ROW))


def _matrices(x: Tensor, stacked: int) -> Tensor:
    """(N, C, H, W, D) channels-last as (N, V / stacked, stacked * C), the same memory."""
    return x.permute(0, 2, 3, 4, 1).view(len(x), -1, stacked * x.shape[1])


def _blocks(rows: Tensor) -> Iterator[Tensor]:
    """Rows in parts of about BLOCK numbers for each thread."""
    return iter(rows.split(max(BLOCK * torch.get_num_threads() // rows.shape[1], 1)))


def _wide(values: Tensor, rows: Tensor, stacked: int) -> Tensor:
    """(C,) repeated for the voxels of a row, as the type to calculate in."""
    return values.to(_arithmetic(rows)).repeat(stacked)


def _arithmetic(rows: Tensor) -> torch.dtype:
    return torch.promote_types(rows.dtype, torch.float32)


def _moments(rows: Tensor, stacked: int) -> tuple[Tensor, Tensor]:
    """Mean and biased variance (C,), float64: of every column of every block, then of all of a channel's columns."""
    found = [aten.batch_norm_update_stats(b.to(_arithmetic(rows)), None, None, 0.0) for b in _blocks(rows)]
    counts = torch.tensor([len(block) for block in _blocks(rows)], dtype=torch.float64)
    means, variances = (torch.stack(part).double().unflatten(1, (stacked, -1)) for part in zip(*found, strict=True))
    shares = (counts / (len(rows) * stacked))[:, None, None]
    mean = (shares * means).sum((0, 1))
    return mean, (shares * (variances + (means - mean).square())).sum((0, 1))


def _gradient_sums(rows: Tensor, passed: Tensor, mean: Tensor, rstd: Tensor, stacked: int) -> Tensor:
    """Of the gradient ``passed`` by the activation: sum times the normalised x, and sum; (2, C) float64."""
    centre, scale = _wide(mean, rows, stacked), _wide(rstd, rows, stacked)
    found = [
        aten.native_batch_norm_backward(g, x, scale, None, None, centre, scale, True, 0.0, [False, True, True])[1:]
        for x, g in zip(_blocks(rows), _blocks(passed), strict=True)
    ]
    sums = torch.stack([torch.stack(part).double().sum(0) for part in zip(*found, strict=True)])
    return sums.unflatten(1, (stacked, -1)).sum(1)


def _to_input(
    rows: Tensor, passed: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor, means: Tensor, stacked: int
) -> None:
    """Replaces ``passed`` by the gradient of x; means: the sums of ``_gradient_sums`` for each voxel."""
    scale = weight * rstd
    slope = -scale * rstd * means[0]
    a, b, c = (_wide(v, rows, stacked) for v in (scale, slope, -scale * means[1] - slope * mean))
    for x, g in zip(_blocks(rows), _blocks(passed), strict=True):
        g.copy_(torch.addcmul(c, x.to(c.dtype), b).addcmul_(g.to(c.dtype), a))
