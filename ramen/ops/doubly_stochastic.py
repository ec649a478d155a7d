"""Projections onto doubly stochastic matrices: entries >= 0, every row and every column sums to 1.

sinkhorn_knopp   exp and rows divided by their sums, then columns and rows in turn.
                 Source: Sinkhorn and Knopp 1967; mHC, arXiv 2512.24880.
orthostochastic  squared entries of the nearest orthogonal matrix, found by Newton-Schulz. Differs from the usual five
                 steps of (3, -3.2, 1.2), which end up to 8 % off: the second half of the steps converges cubically.
kronecker        the Kronecker product, which keeps the property. Source: KromHC, arXiv 2601.21579.
The first two are finished by `rounded`, which is exact: with few iterations they give another matrix, never one that is
not doubly stochastic.
Cost: 4 S^2 FLOPs a Sinkhorn iteration, 6 S^3 a Newton-Schulz step, bound by the number of kernels; on CUDA all iterations of
Sinkhorn are one (doubly_stochastic_triton.py).
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ramen.kernels.cpu.library import triton_serves

FLOOR = 1e-30  # keeps divisors above zero in float32
LEAST = 1e-9  # entry before Sinkhorn's scaling, beside a row's sum of 1: keeps the squares of scales in float32's range
FAST = (3.0, -3.2, 1.2)  # an odd quintic of the singular values with slope 3 at zero
EXACT = (1.875, -1.25, 0.375)  # one with slope and curvature zero at its fixed point 1


def sinkhorn_knopp(logits: Tensor, iterations: int) -> Tensor:
    """(..., S, S) -> (..., S, S): exp(logits) scaled by rows and columns."""
    x = logits.reshape(-1, *logits.shape[-2:]).permute(1, 2, 0).contiguous()  # (S, S, N): sums over S add long vectors
    x = torch.softmax(x, dim=1).clamp_min(LEAST)  # rows first, which keeps exp in range
    return _rounded(_Scaling.apply(x, iterations), 0, 1).permute(2, 0, 1).contiguous().view(logits.shape)


class _Scaling(torch.autograd.Function):
    """diag(r) K diag(c) of K (S, S, N): columns and rows brought to sum 1 in turn. Keeps K alone for the backward pass."""

    @staticmethod
    def forward(ctx: Any, k: Tensor, iterations: int) -> Tensor:
        ctx.save_for_backward(k)
        ctx.iterations = iterations
        return (_opaque if _hidden(k) else _scaled)(k, iterations)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (k,) = ctx.saved_tensors
        return (_opaque_backward if _hidden(k) else _scaled_backward)(grad.contiguous(), k, ctx.iterations), None


def _hidden(k: Tensor) -> bool:
    """Whether a compiler is there, which would take half a minute over the iterations of a sublayer, or a kernel may be."""
    return torch.compiler.is_compiling() or k.is_cuda


def _on_triton(k: Tensor) -> Any:
    """The kernels for matrices like these, or None."""
    if not triton_serves(k.device) or k.dtype != torch.float32:
        return None
    from ramen.kernels.cuda import doubly_stochastic as kernels

    return kernels if len(k) <= kernels.LARGEST else None


def _scaled(k: Tensor, iterations: int) -> Tensor:
    if serving := _on_triton(k):
        return serving.scaled(k, iterations)
    rows, columns = _scale(k, iterations)
    return k * rows[-1].unsqueeze(1) * columns[-1]


def _scaled_backward(grad: Tensor, k: Tensor, iterations: int) -> Tensor:
    if serving := _on_triton(k):
        return serving.scaled_backward(grad, k, iterations)
    rows, columns = _scale(k, iterations)
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


_opaque = torch.library.custom_op("ramen::sinkhorn_scaling", _scaled, mutates_args=())
_opaque_backward = torch.library.custom_op("ramen::sinkhorn_scaling_backward", _scaled_backward, mutates_args=())
_opaque.register_fake(lambda k, iterations: torch.empty_like(k))
_opaque_backward.register_fake(lambda grad, k, iterations: torch.empty_like(k))


def _scale(k: Tensor, iterations: int) -> tuple[list[Tensor], list[Tensor]]:
    """The scales (S, N) of rows (from 1 on) and of columns after each iteration."""
    rows, columns = [torch.ones_like(k[:, 0])], []
    for _ in range(iterations):
        columns.append((k * rows[-1].unsqueeze(1)).sum(0).reciprocal())
        rows.append((k * columns[-1]).sum(1).reciprocal())
    return rows, columns


def orthostochastic(logits: Tensor, iterations: int) -> Tensor:
    """(..., S, S) -> (..., S, S): the squares of the polar factor's entries."""
    x = logits / torch.linalg.matrix_norm(logits, keepdim=True).clamp_min(FLOOR)
    for step in range(iterations):
        a, b, c = FAST if 2 * step < iterations else EXACT
        gram = x.mT @ x
        x = a * x + x @ (b * gram + c * (gram @ gram))
    return rounded(x.square())


def rounded(x: Tensor) -> Tensor:
    """The doubly stochastic matrix near x (..., S, S) >= 0; x itself where it is one.

    Rows and columns of a sum above 1 are divided by it, and what is missing then is added as an outer product.
    Source: Altschuler, Weed and Rigollet 2017, arXiv 1705.09634, algorithm 2.
    """
    return _rounded(x, -2, -1)


def _rounded(x: Tensor, rows: int, columns: int) -> Tensor:
    """`rows`, `columns`: the axes that number rows and columns, so that a row is summed over `columns`."""
    x = x / x.sum(columns, keepdim=True).clamp_min(1.0)
    x = x / x.sum(rows, keepdim=True).clamp_min(1.0)
    short_row = (1 - x.sum(columns, keepdim=True)).clamp_min(0.0)
    short_column = (1 - x.sum(rows, keepdim=True)).clamp_min(0.0)
    # The two sums are one but for rounding: the larger one keeps quotients, and so gradients, at 1 or below.
    missing = torch.maximum(short_row.sum(rows, keepdim=True), short_column.sum(columns, keepdim=True))
    return x + short_row * (short_column / missing.clamp_min(FLOOR))


def kronecker(factors: Tensor) -> Tensor:
    """(..., K, n, n) -> (..., n^K, n^K): the Kronecker product of K matrices, the first varying slowest."""
    product, *rest = factors.unbind(-3)
    for factor in rest:
        wide = product[..., :, None, :, None] * factor[..., None, :, None, :]
        product = wide.flatten(-4, -3).flatten(-2, -1)
    return product
