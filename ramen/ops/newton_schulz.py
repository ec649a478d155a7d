"""Newton-Schulz: odd quintics of the singular values by matrix products alone; Muon repeats one of them.

For X = U S V^T one step of (a, b, c) gives U (aS + bS^3 + cS^5) V^T: with the Gram matrix A = X^T X of the short side,
X <- X (a I + b A + c A^2). Tall matrices multiply on the right and wide ones on the left, so nothing is transposed in memory.

Source: Keller Jordan, https://kellerjordan.github.io/posts/muon ; torch.optim.Muon.
Cost: 20 s^2 l + 10 s^3 FLOPs for 5 steps on an m x n matrix (s short side, l long side); less in the Gram form (ramen.kernels).
Differs from the source: batched, and the normalisation is relative instead of clamped at an absolute eps.

Muon's coefficients trade convergence for slope: singular values from 1e-2 of the Frobenius norm up end in [0.68, 1.21] and stay
there however many steps follow. Polar Express does better at equal cost. The converging coefficients take every singular
value to 1, doubling a small one in each step: 12 steps bring those from 1e-3 of the norm up to within 1e-4 of it.
A matrix's result does not depend on its neighbours. (Parts of 2 MB, one after the other, are 10 % faster on a CPU whose cache is
small, but cost ten times the dispatches.)
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ramen.ops.bank import amax, upcast
from ramen.ops.operation import operation

Quintic = tuple[float, float, float]
MUON: Quintic = (3.4445, -4.7750, 2.0315)
CONVERGING: Quintic = (2.0, -1.5, 0.5)  # modded-nanogpt, records/track_3_optimization


def newton_schulz(
    x: Tensor, *, steps: int = 5, coefficients: Quintic = MUON, dtype: torch.dtype | None = torch.bfloat16
) -> Tensor:
    """Roughly orthogonalise each matrix of x (..., m, n); `dtype`, shape and result as in `apply_quintics`."""
    return apply_quintics(x, (coefficients,) * steps, norm_factor=1.0, dtype=dtype)


def apply_quintics(x: Tensor, quintics: Sequence[Quintic], *, norm_factor: float, dtype: torch.dtype | None) -> Tensor:
    """Map the singular values of x (..., m, n), divided by norm_factor * ||x||_F, through the quintics in turn.

    dtype is the type of the iteration; None: x's own, or float32 for a 16-bit x. Returns x's shape and dtype.
    A zero matrix gives zero.
    """
    if x.numel() == 0:
        return torch.empty_like(x)
    a, b, c = quintics[0]
    quintics = ((a / norm_factor, b / norm_factor**3, c / norm_factor**5), *quintics[1:])  # of x / ||x||_F now
    bank = unit_norm(x.reshape(-1, *x.shape[-2:]), dtype or torch.promote_types(x.dtype, torch.float32))
    return iterate(bank, quintics).to(x.dtype).reshape(x.shape)


@operation
def unit_norm(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x (N, m, n) / ||x||_F in dtype; the largest entry goes first, so that no square over- or underflows."""
    x = upcast(x)
    tiny = torch.finfo(x.dtype).tiny
    x = x / amax(x, (-2, -1)).clamp_min_(tiny)
    norm = torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True).clamp_min_(tiny)
    return torch.div(x, norm, out=x if x.dtype == dtype else torch.empty_like(x, dtype=dtype))


@operation
def iterate(x: Tensor, quintics: Sequence[Quintic]) -> Tensor:
    """x (N, m, n) after one step of each quintic, in x's dtype."""
    tall = x.shape[-2] > x.shape[-1]
    for a, b, c in quintics:
        gram = x.mT @ x if tall else x @ x.mT  # (N, s, s)
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, x, factor, beta=a) if tall else torch.baddbmm(x, factor, x, beta=a)  # (N, m, n)
    return x
