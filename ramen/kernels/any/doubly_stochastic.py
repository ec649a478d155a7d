"""Sinkhorn's scaling with a gradient written out, which keeps the matrices alone for the backward pass, not every iteration's.

To a compiler each pass is one operation: it would take half a minute over the iterations of a sublayer.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ramen.ops.doubly_stochastic import scaled
from ramen.ops.operation import opaque, operation, twin


@twin(scaled)
def _(k: Tensor, iterations: int) -> Tensor:
    return _Scaling.apply(k, iterations)


class _Scaling(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, k: Tensor, iterations: int) -> Tensor:
        ctx.save_for_backward(k)
        ctx.iterations = iterations
        return _forward(k, iterations)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (k,) = ctx.saved_tensors
        return _backward(grad.contiguous(), k, ctx.iterations), None


@opaque("sinkhorn_scaling", lambda k, iterations: torch.empty_like(k))
def _forward(k: Tensor, iterations: int) -> Tensor:
    return scale_axes(k, iterations)


@opaque("sinkhorn_scaling_backward", lambda grad, k, iterations: torch.empty_like(k))
def _backward(grad: Tensor, k: Tensor, iterations: int) -> Tensor:
    return scale_axes_backward(grad, k, iterations)


@operation
def scale_axes(k: Tensor, iterations: int) -> Tensor:
    """diag(r) K diag(c) of K (S, S, N) > 0, contiguous."""
    rows, columns = _scales(k, iterations)
    return k * rows[-1].unsqueeze(1) * columns[-1]


@operation
def scale_axes_backward(grad: Tensor, k: Tensor, iterations: int) -> Tensor:
    """The gradient of K (S, S, N) for that of `scale_axes`."""
    rows, columns = _scales(k, iterations)
    weighted = grad * k
    grad_row, grad_column = (weighted * columns[-1]).sum(1), (weighted * rows[-1].unsqueeze(1)).sum(0)
    grad_k = grad * rows[-1].unsqueeze(1) * columns[-1]
    for i in reversed(range(iterations)):
        row = -grad_row * rows[i + 1].square()  # of the sums that rows[i + 1] are the inverses of
        grad_k.addcmul_(row.unsqueeze(1), columns[i])
        column = -(grad_column + (k * row.unsqueeze(1)).sum(0)) * columns[i].square()
        grad_k.addcmul_(rows[i].unsqueeze(1), column)
        grad_row, grad_column = (k * column).sum(1), torch.zeros_like(column)
    return grad_k


def _scales(k: Tensor, iterations: int) -> tuple[list[Tensor], list[Tensor]]:
    """The scales (S, N) of rows (from 1 on) and of columns after each iteration."""
    rows, columns = [torch.ones_like(k[:, 0])], []
    for _ in range(iterations):
        columns.append((k * rows[-1].unsqueeze(1)).sum(0).reciprocal())
        rows.append((k * columns[-1]).sum(1).reciprocal())
    return rows, columns
