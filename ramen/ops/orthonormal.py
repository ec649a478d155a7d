"""The orthonormal factor Q of A = Q R with diag(R) > 0: unique when A has full column rank.

Columns that depend on earlier ones are completed to an orthonormal basis; so is a zero matrix.
CPU   Householder QR of LAPACK, one matrix after the other (3 times faster there than Cholesky QR).
CUDA  two passes of shifted Cholesky QR in float64, batched: Gram matrix, Cholesky, triangular solve. The outcome is
      not read back; a Cholesky that reports failure leaves its matrix as it was, by torch.where. torch.linalg.qr
      factors the batch one matrix at a time there. Not yet timed on a GPU.
Source: Fukaya et al., "Shifted Cholesky QR", SIAM J. Sci. Comput. 42 (2020); used by ARO, arXiv 2602.09006.
Cost for (m, s): Householder 4 m s^2 - 4/3 s^3 FLOPs; Cholesky QR 2 (3 m s^2 + s^3 / 3).
Differs from the source: Q does not change when a column is multiplied by a positive number, so columns are brought to
unit length first, which takes bad scaling away. Cholesky QR needs full rank: it sees A plus a fixed noise of 1e-8, in
which a dependent column finds the direction that completes the basis.
"""

from functools import lru_cache

import torch
from torch import Tensor

from ramen.ops.bank import amax, upcast

PASSES = 2  # 1e-8 / m is the smallest singular value met: one pass brings it to about 1e-4, two to 1 within 1e-6
NOISE = 1e-8  # relative to a column; under the rounding of a float32 input


def orthonormal_factor(a: Tensor) -> Tensor:
    """Q of each matrix of a (..., m, s), m >= s, with Q^T Q = I to 1e-5; a's dtype, or float32 for a 16-bit a."""
    if a.ndim < 2 or a.shape[-2] < a.shape[-1]:
        raise ValueError(f"orthonormal columns: too few rows, got shape {tuple(a.shape)}; allowed (..., m, s), m >= s")
    if a.numel() == 0:
        return torch.empty_like(upcast(a))
    a = _unit_columns(upcast(a))
    return _cholesky_qr(a) if a.is_cuda else _householder_qr(a)


def _unit_columns(a: Tensor) -> Tensor:
    tiny = torch.finfo(a.dtype).tiny
    a = a / amax(a, -2).clamp_min_(tiny)  # then squares neither over- nor underflow
    return a / a.square().sum(dim=-2, keepdim=True).sqrt_().clamp_min_(tiny)  # vector_norm is slow along columns


def _householder_qr(a: Tensor) -> Tensor:
    # LAPACK loses orthogonality (1e-5) on constant columns, where all rounding errors agree; noise of one ulp ends that
    noisy = torch.add(a, _noise(a).to(a.dtype), alpha=torch.finfo(a.dtype).eps)
    reflectors, scales = torch.geqrf(noisy)  # the two halves of torch.linalg.qr, which copies R too
    q = torch.linalg.householder_product(reflectors, scales)
    return q.mul_(torch.where(reflectors.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(q.dtype).unsqueeze(-2))


def _cholesky_qr(a: Tensor) -> Tensor:
    m, s = a.shape[-2:]
    q = _unit_columns(a.double() + NOISE * _noise(a))
    shift = 10 * m * torch.finfo(q.dtype).eps  # above the rounding of the Gram matrix: it stays positive definite
    eye = torch.eye(s, dtype=q.dtype, device=q.device)
    for k in range(PASSES):
        gram = q.mT @ q  # (..., s, s)
        factor, info = torch.linalg.cholesky_ex(gram + shift * eye if k + 1 < PASSES else gram)
        solved = torch.linalg.solve_triangular(factor.mT, q, upper=True, left=False)  # (..., m, s)
        q = torch.where((info == 0)[..., None, None], solved, q)
    return q.to(a.dtype)


def _noise(a: Tensor) -> Tensor:
    """A fixed matrix (m, s) of entries in (-1, 1) / sqrt(m) without pattern; no random stream is moved."""
    make = _make_noise if type(a) is Tensor else _make_noise.__wrapped__  # a fake tensor must not be kept
    return make(*a.shape[-2:], a.device)


@lru_cache(maxsize=16)
def _make_noise(m: int, s: int, device: torch.device) -> Tensor:
    index = torch.arange(1, m * s + 1, dtype=torch.float64, device=device).view(m, s)
    return torch.frac(torch.sin(index) * 43758.5453) / m**0.5
