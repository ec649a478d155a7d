"""Power iteration: the largest singular value, from a vector kept between calls.

One step is v = X^T u / |X^T u|, sigma = |X v|, u = X v / sigma. As v has unit length sigma is never above the true norm
(but for rounding), and for a fixed X it never falls from one step to the next.
Source: Spectron, arXiv 2602.12429; spectral normalisation, arXiv 1802.05957.
Cost: 4 m n FLOPs a step; state m numbers.
Differs from the sources: the start vector is a fixed formula, so it moves no random stream; a zero matrix leaves u as
it was; nothing is read back from the device.
"""

import torch
from torch import Tensor

from ramen.ops.bank import amax, upcast
from ramen.ops.orthonormal import noise


def spectral_norm(x: Tensor, u: Tensor, *, steps: int = 1) -> tuple[Tensor, Tensor]:
    """Estimate the spectral norms of x (..., m, n) from unit vectors u (..., m): sigma (...) and the next u.

    Both results have u's dtype; the products are made in it too, so keep u in float32 or wider.
    """
    x = x.to(u.dtype)
    if x.numel() == 0:
        return u.new_zeros(x.shape[:-2]), u.clone()
    scale = amax(x, (-2, -1))
    inverse = scale.clamp_min(torch.finfo(u.dtype).tiny).reciprocal_()  # so that no square over- or underflows
    left = u.unsqueeze(-1)  # (..., m, 1)
    sigma = scale
    for _ in range(steps):
        right, _length = _unit(((left * inverse).mT @ x).mT)  # (..., n, 1); 4 times faster on a CPU than x^T times it
        moved, sigma = _unit(x @ (right * inverse))  # (..., m, 1), (..., 1, 1)
        left = torch.where(sigma > 0, moved, left)
    return (sigma * scale)[..., 0, 0], left.squeeze(-1)


def start_vector(x: Tensor) -> Tensor:
    """Unit vectors u (..., m) to start from for x (..., m, n): the same on every call, not aligned with any pattern."""
    fixed = noise(x.new_empty(x.shape[-2], 1)).squeeze(1)
    unit = fixed / torch.linalg.vector_norm(fixed)
    return unit.to(upcast(x).dtype).expand(x.shape[:-1]).clone()


def _unit(vector: Tensor) -> tuple[Tensor, Tensor]:
    """The column vectors (..., k, 1) at unit length, and their lengths (..., 1, 1); zero stays zero."""
    length = torch.linalg.vector_norm(vector, dim=-2, keepdim=True)
    return vector / length.clamp_min(torch.finfo(vector.dtype).tiny), length
