"""Projections onto doubly stochastic matrices: entries >= 0, every row and every column sums to 1.

sinkhorn_knopp   exp and rows divided by their sums, then columns and rows in turn; then Newton's steps for the sums.
                 Source: Sinkhorn and Knopp 1967; mHC, arXiv 2512.24880. Differs from them by Newton's steps: near the
                 identity, iterations hardly move, and what they left undone made the gradient jump.
orthostochastic  squared entries of the nearest orthogonal matrix, found by Newton-Schulz. Differs from the usual five
                 steps of (3, -3.2, 1.2), which end up to 8 % off: the second half of the steps converges cubically.
kronecker        the Kronecker product, which keeps the property. Source: KromHC, arXiv 2601.21579.
The first two are finished by `rounded`, which is exact: with few iterations they give another matrix, never one that is
not doubly stochastic.
Cost: 4 S^2 FLOPs a Sinkhorn iteration, 6 S^3 a Newton-Schulz step, bound by the number of kernels.
"""

import torch
from torch import Tensor

from ramen.ops.newton_schulz import iterate
from ramen.ops.operation import operation

FLOOR = 1e-30  # keeps divisors above zero in float32
LEAST = 1e-9  # entry before Sinkhorn's scaling, beside a row's sum of 1: keeps the squares of scales in float32's range
NEWTON_STEPS, MOST_LOG = 3, 4.0  # after the iterations; the most that one of them changes the logarithm of a scale
FAST = (3.0, -3.2, 1.2)  # an odd quintic of the singular values with slope 3 at zero
EXACT = (1.875, -1.25, 0.375)  # one with slope and curvature zero at its fixed point 1


def sinkhorn_knopp(logits: Tensor, iterations: int) -> Tensor:
    """(..., S, S) -> (..., S, S): exp(logits) scaled by rows and columns."""
    x = logits.reshape(-1, *logits.shape[-2:]).permute(1, 2, 0).contiguous()  # (S, S, N): sums over S add long vectors
    return project(x, iterations).permute(2, 0, 1).contiguous().view(logits.shape)


@operation
def project(logits: Tensor, iterations: int) -> Tensor:
    """sinkhorn_knopp of logits (S, S, N)."""
    x = scaled(torch.softmax(logits, dim=1).clamp_min(LEAST), iterations)  # rows first, which keeps exp in range
    for _ in range(NEWTON_STEPS):
        x = _newton_step(x)
    return rounded(x, 0, 1)


@operation
def scaled(k: Tensor, iterations: int) -> Tensor:
    """diag(r) K diag(c) of matrices K (S, S, N) > 0: columns and rows brought to sum 1 in turn."""
    for _ in range(iterations):
        k = k / k.sum(0)
        k = k / k.sum(1, keepdim=True)
    return k


def _newton_step(x: Tensor) -> Tensor:
    """x (S, S, N) with columns scaled, and rows back to 1, by Newton's step for the columns' sums, or as Sinkhorn if better."""
    short = 1 - x.sum(0)  # (S, N)
    step = solve_laplacian(columns_product(x), short)
    y = x * (step - step.mean(0)).clamp(-MOST_LOG, MOST_LOG).exp()
    y = y / y.sum(1, keepdim=True)
    z = scaled(x, 1)
    worst_y, worst_z = ((1 - m.sum(0)).abs().amax(0) for m in (y, z))
    return torch.where(worst_y <= worst_z.clamp_min(4 * torch.finfo(x.dtype).eps), y, z)


def columns_product(x: Tensor) -> Tensor:
    """x^T x of matrices (S, S, N)."""
    return (x.unsqueeze(2) * x.unsqueeze(1)).sum(0)


def solve_laplacian(weights: Tensor, b: Tensor) -> Tensor:
    """v (S, N) with v_0 = 0 and sum_k w_jk (v_j - v_k) = b_j, for weights (S, S, N) >= 0 and b (S, N) that sums to zero.

    Eliminates the last unknown first, as it only adds and divides positive numbers: no digits are lost where weights are small.
    """
    eliminated = []
    for k in range(len(b) - 1, 0, -1):
        row = weights[k, :k]
        total = row.sum(0).clamp_min(FLOOR)
        share = row / total
        eliminated.append((b[k] / total, share))
        b = b[:k] + share * b[k]
        weights = weights[:k, :k] + share.unsqueeze(1) * row
    v = [torch.zeros_like(b[0])]
    for alone, share in reversed(eliminated):
        v.append(alone + (share * torch.stack(v)).sum(0))
    return torch.stack(v)


def orthostochastic(logits: Tensor, iterations: int) -> Tensor:
    """(..., S, S) -> (..., S, S): the squares of the polar factor's entries."""
    x = logits / torch.linalg.matrix_norm(logits, keepdim=True).clamp_min(FLOOR)
    fast = (iterations + 1) // 2
    x = iterate(x.reshape(-1, *x.shape[-2:]), (FAST,) * fast + (EXACT,) * (iterations - fast)).view(logits.shape)
    return rounded(x.square())


def rounded(x: Tensor, rows: int = -2, columns: int = -1) -> Tensor:
    """The doubly stochastic matrix near x >= 0, whose axes `rows` and `columns` number them; x itself where it is one.

    Rows and columns of a sum above 1 are divided by it, and what is missing then is added as an outer product.
    Source: Altschuler, Weed and Rigollet 2017, arXiv 1705.09634, algorithm 2.
    """
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
