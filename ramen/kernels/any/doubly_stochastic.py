"""The gradient of Sinkhorn's projection from its result alone, not through the iterations.

With y = exp(logits + u_i + v_j) and all sums 1, a change of the logits moves u and v so that the sums stay: for a gradient G of y,
    gradient of the logits = y (G - a_i - b_j),  a_i + sum_j y_ij b_j = sum_j y_ij G_ij,  b_j + sum_i y_ij a_i = sum_i y_ij G_ij
To a compiler each pass is one operation: it would take half a minute over the iterations of a sublayer.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ramen.kernels.compiler import opaque
from ramen.ops.doubly_stochastic import columns_product, project, solve_laplacian
from ramen.ops.operation import plain, twin


@twin(project)
def _(logits: Tensor, iterations: int) -> Tensor:
    return _Projection.apply(logits, iterations)


class _Projection(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, iterations: int) -> Tensor:
        y = _forward(logits, iterations)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _backward(grad, *ctx.saved_tensors), None


@opaque("sinkhorn_projection", lambda logits, iterations: torch.empty_like(logits))
def _forward(logits: Tensor, iterations: int) -> Tensor:
    return plain(project)(logits, iterations)


@opaque("sinkhorn_projection_backward", lambda grad, y: torch.empty_like(y))
def _backward(grad: Tensor, y: Tensor) -> Tensor:
    weighted = y * grad  # (S, S, N)
    rows = weighted.sum(1)
    b = solve_laplacian(columns_product(y), (weighted - y * rows.unsqueeze(1)).sum(0))
    a = rows - (y * b).sum(1)
    return weighted - y * (a.unsqueeze(1) + b)
