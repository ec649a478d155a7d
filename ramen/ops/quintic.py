"""Odd quintics of the singular values: the iteration under Polar Express and Newton-Schulz.

For X = U S V^T one step of (a, b, c) gives U (aS + bS^3 + cS^5) V^T, from matrix products alone: with the Gram matrix
A = X^T X of the short side, X <- X (a I + b A + c A^2). Tall matrices multiply on the right and wide ones on the left,
so nothing is transposed in memory.

Two forms, equal in exact arithmetic (s short side, l long side, r = l / s, FLOPs in s^3 for 5 steps):
plain  the step as written; 20 r + 10. Best near square.
gram   a run of steps on the s x s Gram matrix and the product Q of their factors; X is touched only when a run ends and
       is rebuilt as X Q (the idea of "Gram Newton-Schulz", Dao AI Lab, 2026). 8 r + 28, in 16-bit types 16 r + 16.
       Each step amplifies the rounding of the Gram matrix (one run of 5 is off by 1e-3 in fp32; in bf16 singular values
       above 100 appear), so runs are 3 steps long (error 1e-5 to 5e-5 in fp32, as plain), and in 16-bit types only the
       last two steps make one: 5 steps end in [0.84, 1.17] in bf16 (plain: [0.857, 1.144]), and nothing above 1.17
       appears near square (runs of 1, 2, 2: above 6).
auto   gram where l >= 2 s, unless the iteration is in bfloat16, where gram costs accuracy.

Measured on one core (AVX512, fp32 twice as fast as bf16), gram against plain in fp32: 24 x (1024, 256) 1.5x, 16 x (512, 128)
1.4x, square 0.8x.

A matrix's result does not depend on its neighbours. (Parts of 2 MB, one after the other, are 10 % faster on a CPU whose cache is
small, but cost ten times the dispatches.)
"""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from ramen.ops.bank import amax
from ramen.ops.operation import operation

Quintic = tuple[float, float, float]
Form = Literal["auto", "plain", "gram"]


def apply_quintics(
    x: Tensor, quintics: Sequence[Quintic], *, norm_factor: float, dtype: torch.dtype | None, form: Form
) -> Tensor:
    """Map the singular values of x (..., m, n), divided by norm_factor * ||x||_F, through the quintics in turn.

    dtype is the type of the iteration; None: x's own, or float32 for a 16-bit x. Returns x's shape and dtype.
    A zero matrix gives zero.
    """
    if x.ndim < 2:
        raise ValueError(f"a matrix needs two axes, got shape {tuple(x.shape)}; allowed (..., m, n)")
    if form not in get_args(Form):
        raise ValueError(f"form is unknown, got {form!r}; allowed {', '.join(get_args(Form))}")
    if x.numel() == 0:
        return torch.empty_like(x)
    dtype = dtype or (torch.float32 if x.dtype.itemsize < 4 else x.dtype)
    if form == "auto":
        oblong = max(x.shape[-2:]) >= 2 * min(x.shape[-2:])
        form = "gram" if oblong and dtype != torch.bfloat16 else "plain"
    a, b, c = quintics[0]
    quintics = ((a / norm_factor, b / norm_factor**3, c / norm_factor**5), *quintics[1:])  # of x / ||x||_F now
    iterate = _gram if form == "gram" else _plain
    bank = x.reshape(-1, *x.shape[-2:])  # (N, m, n)
    return iterate(unit_norm(bank, dtype), quintics).to(x.dtype).reshape(x.shape)


@operation
def unit_norm(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x (N, m, n) / ||x||_F in dtype; the largest entry goes first, so that no square over- or underflows."""
    work = torch.float32 if x.dtype.itemsize < 4 else x.dtype
    tiny = torch.finfo(work).tiny
    x = x / amax(x, (-2, -1)).to(work).clamp_min_(tiny)
    norm = torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True).clamp_min_(tiny)
    return torch.div(x, norm, out=x if x.dtype == dtype else torch.empty_like(x, dtype=dtype))


def _plain(x: Tensor, quintics: Sequence[Quintic]) -> Tensor:
    tall = x.shape[-2] > x.shape[-1]
    for a, b, c in quintics:
        gram = x.mT @ x if tall else x @ x.mT  # (N, s, s)
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, x, factor, beta=a) if tall else torch.baddbmm(x, factor, x, beta=a)  # (N, m, n)
    return x


def _gram(x: Tensor, quintics: Sequence[Quintic]) -> Tensor:
    tall = x.shape[-2] > x.shape[-1]
    for run in _runs(quintics, x.dtype):
        if len(run) == 1:
            x = _plain(x, run)
            continue
        q = _gram_run(x.mT @ x if tall else x @ x.mT, run)  # (N, s, s)
        x = x @ q if tall else q @ x  # (N, m, n)
    return x


def _runs(quintics: Sequence[Quintic], dtype: torch.dtype) -> list[Sequence[Quintic]]:
    """Steps between two rebuilds of X: 3 at a time; in 16-bit types one by one, but for the last two (early ones cancel most)."""
    if dtype.itemsize >= 4:
        return [quintics[i : i + 3] for i in range(0, len(quintics), 3)]
    last = max(0, len(quintics) - 2)
    return [[quintic] for quintic in quintics[:last]] + [quintics[last:]]


def _gram_run(gram: Tensor, quintics: Sequence[Quintic]) -> Tensor:
    """Product of the step factors a I + b A + c A^2, A the Gram matrix each step would see; (N, s, s)."""
    q = None
    apart = gram.dtype.itemsize < 4  # a I stays out of the products, or 16-bit types round it away; wider ones need not
    for k, (a, b, c) in enumerate(quintics):
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        if not apart:
            factor.diagonal(dim1=-2, dim2=-1).add_(a)
        if k + 1 < len(quintics):  # A <- (a I + factor) A (a I + factor)
            half = torch.baddbmm(gram, gram, factor, beta=a) if apart else gram @ factor
            gram = torch.baddbmm(half, factor, half, beta=a) if apart else factor @ half
        if q is not None:
            q = torch.baddbmm(q, q, factor, beta=a) if apart else q @ factor
            continue
        q = factor
        if apart:
            q.diagonal(dim1=-2, dim2=-1).add_(a)
    assert q is not None  # there is at least one step
    return q
