"""max(x, 0)^2 and its gradient in one pass over memory each (relu_squared.c)."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ramen.kernels.cpu.library import Library, kernels
from ramen.ops.activation import relu_squared
from ramen.ops.operation import twin


@twin(relu_squared, "cpu")
def _(x: Tensor) -> Tensor:
    library = kernels(x)
    return _ReLUSquared.apply(x, library) if library else NotImplemented


class _ReLUSquared(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, library: Library) -> Tensor:
        x = x.contiguous()
        y = torch.empty_like(x)
        library.relu_squared_forward(x, y, x.numel())
        ctx.save_for_backward(x)
        ctx.library = library
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        dx = torch.empty_like(x)
        ctx.library.relu_squared_backward(x, grad.contiguous(), dx, x.numel())
        return dx, None
