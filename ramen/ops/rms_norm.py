"""Root-mean-square normalisation without gain: x / sqrt(mean(x^2) + eps) over the last axis.

Source: Zhang and Sennrich 2019, arXiv 1910.07467. eps is torch's default, the machine epsilon of float32.
The backward pass is written out because torch's own takes about three times as many passes over memory on a CPU; in float32
both passes are kernels there (rms_norm.c).
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ramen.device import compute_dtype
from ramen.kernels.cpu.library import Library, kernels

EPS = torch.finfo(torch.float32).eps


def rms_norm(x: Tensor) -> Tensor:
    """(..., D) -> (..., D) of root mean square 1, in x's dtype; a zero vector stays zero."""
    compiled = kernels("rms_norm", x) if x.dtype == torch.float32 else None
    return _Compiled.apply(x, compiled) if compiled else _RMSNorm.apply(x, compute_dtype(x).itemsize < 4)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, narrow: bool) -> Tensor:
        y, inverse = torch.ops.aten._fused_rms_norm(x, (x.shape[-1],), None, EPS)
        # Where y goes on in 16 bits, x is kept: a compiler then writes no y of 32, nor y twice.
        ctx.narrow = narrow
        ctx.save_for_backward(x if narrow else y, inverse)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        kept, inverse = ctx.saved_tensors  # (..., D), (..., 1)
        wide = kept.to(inverse.dtype)
        along = (grad * wide).mean(dim=-1, keepdim=True)
        if ctx.narrow:
            along = along * inverse.square()
        return ((grad - wide * along) * inverse).to(kept.dtype), None


class _Compiled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, compiled: Library) -> Tensor:
        x = x.contiguous()
        y, inverse = torch.empty_like(x), x.new_empty(x.shape[:-1])
        compiled.rms_norm_forward(x, y, inverse, inverse.numel(), x.shape[-1])
        ctx.save_for_backward(y, inverse)
        ctx.compiled = compiled
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        y, inverse = ctx.saved_tensors  # (..., D), (...)
        dx = torch.empty_like(y)
        ctx.compiled.rms_norm_backward(grad.contiguous(), y, inverse, dx, inverse.numel(), y.shape[-1])
        return dx, None
