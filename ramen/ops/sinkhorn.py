"""Rows and columns normalised in turn: BAM's balanced axes and SinkGD's Sinkhorn.

balance_axes  L2 norms of 1; the last axis to be normalised is the columns of a tall matrix, else the rows, so that
              ||result||_F = sqrt(min(m, n)), as for an exact polar factor.
              Source: BAM, https://github.com/knightron0/bam
sinkhorn      RMS norms of 1; rows, then columns.
              Source: SinkGD, arXiv 2502.06742; ARO, arXiv 2602.09006.
Cost: about 6 m n FLOPs a step; bound by memory.
Differs from the sources: alternating as in SinkGD (ARO prints the simultaneous division, which needs a renormalisation
that it leaves out); no absolute eps. A row or column below eps^2 of the largest entry (1e-14 in fp32) counts as zero.
"""

import math

import torch
from torch import Tensor

from ramen.ops.bank import amax, upcast
from ramen.ops.operation import operation


def balance_axes(x: Tensor, *, steps: int = 1, half: bool = False) -> Tensor:
    """Normalise rows and columns of x (..., m, n) to unit L2 norm in turn, steps times; x's shape and dtype.

    Tall (m > n): rows then columns; else columns then rows. half: without the very first of these normalisations, so
    that one step is the last axis alone (HalfBAM).
    """
    tall = x.shape[-2] > x.shape[-1]
    axes = ((-1, -2) if tall else (-2, -1)) * steps  # the axis a norm is summed over: -1 for row norms
    return normalize_axes(x, axes[1:] if half else axes, 1.0)


def sinkhorn(x: Tensor, *, steps: int = 5) -> Tensor:
    """Normalise rows, then columns of x (..., m, n) to unit RMS, steps times; x's shape and dtype.

    Column RMS is 1 at the end, row RMS converges to 1 with the steps.
    """
    return normalize_axes(x, (-1, -2) * steps, math.sqrt(x.shape[-2]))


@operation
def normalize_axes(x: Tensor, axes: tuple[int, ...], norm: float) -> Tensor:
    """Divide x by its L2 norms along each of the axes in turn; the last division leaves norm in place of 1."""
    if x.numel() == 0:
        return torch.empty_like(x)
    out = upcast(x)
    out = out / amax(out, (-2, -1)).clamp_min_(torch.finfo(out.dtype).tiny)  # squares are in range, floors relative
    for i, axis in enumerate(axes):
        length = torch.linalg.vector_norm(out, dim=axis, keepdim=True).clamp_min_(least_norm(out))
        out.mul_((norm if i + 1 == len(axes) else 1.0) / length)
    return out.to(x.dtype)


def least_norm(x: Tensor) -> float:
    """The norm that a row or column of zeros is taken to have, where the largest entry is 1."""
    return torch.finfo(x.dtype).eps ** 2
