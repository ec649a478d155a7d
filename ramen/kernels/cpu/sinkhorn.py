"""Rows and columns normalised in turn, float32: a row step and the column step behind it are one pass over memory (sinkhorn.c)."""

import torch
from torch import Tensor

from ramen.kernels.cpu.library import kernels
from ramen.ops.operation import twin
from ramen.ops.sinkhorn import least_norm, normalize_axes


@twin(normalize_axes, "cpu")
def _(x: Tensor, axes: tuple[int, ...], norm: float) -> Tensor:
    library = kernels(x) if x.dtype == torch.float32 and x.numel() else None
    if library is None:
        return NotImplemented
    x = x.contiguous()
    out = torch.empty_like(x)
    m, n = x.shape[-2:]
    library.normalize_axes(x, out, x.numel() // (m * n), m, n, axes[0] == -1, len(axes), norm, least_norm(x) ** 2)
    return out
