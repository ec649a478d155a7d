"""RMS norm whose backward pass is written out: torch's own takes about three times as many passes over memory on a CPU."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ramen.device import compute_dtype
from ramen.ops.operation import twin
from ramen.ops.rms_norm import EPS, rms_norm


@twin(rms_norm)
def _(x: Tensor) -> Tensor:
    return _RMSNorm.apply(x, compute_dtype(x).itemsize < 4)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, narrow: bool) -> Tensor:
        y, inverse = torch.ops.aten._fused_rms_norm(x, (x.shape[-1],), None, EPS)
        # Where y goes on in 16 bits, x is saved: a compiler then writes no y of 32, nor y twice.
        ctx.narrow = narrow
        ctx.save_for_backward(x if narrow else y, inverse)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        saved, inverse = ctx.saved_tensors  # (..., D), (..., 1)
        wide = saved.to(inverse.dtype)
        along = (grad * wide).mean(dim=-1, keepdim=True)
        if ctx.narrow:
            along = along * inverse.square()
        return ((grad - wide * along) * inverse).to(saved.dtype), None
