"""RMS norm in float32: both passes are one kernel each (rms_norm.c)."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ramen.kernels.cpu.library import Library, kernels
from ramen.ops.operation import twin
from ramen.ops.rms_norm import rms_norm


@twin(rms_norm, "cpu")
def _(x: Tensor) -> Tensor:
    library = kernels(x) if x.dtype == torch.float32 else None
    return _RMSNorm.apply(x, library) if library else NotImplemented


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, library: Library) -> Tensor:
        x = x.contiguous()
        y, inverse = torch.empty_like(x), x.new_empty(x.shape[:-1])
        library.rms_norm_forward(x, y, inverse, inverse.numel(), x.shape[-1])
        ctx.save_for_backward(y, inverse)
        ctx.library = library
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        y, inverse = ctx.saved_tensors  # (..., D), (...)
        dx = torch.empty_like(y)
        ctx.library.rms_norm_backward(grad.contiguous(), y, inverse, dx, inverse.numel(), y.shape[-1])
        return dx, None
