"""Cholesky QR, batched, in place of torch.linalg.qr, which factors a batch one matrix at a time on CUDA. Not yet timed on a GPU.

Two passes of shifted Cholesky QR in float64: Gram matrix, Cholesky, triangular solve. The outcome is not read back; a Cholesky that
reports failure leaves its matrix as it was, by torch.where.
Source: Fukaya et al., "Shifted Cholesky QR", SIAM J. Sci. Comput. 42 (2020); used by ARO, arXiv 2602.09006.
Cost for (m, s): 2 (3 m s^2 + s^3 / 3) FLOPs.
Differs from the source: Cholesky QR needs full rank, so it sees A plus a fixed noise of 1e-8, in which a dependent column finds the
direction that completes the basis.
"""

import torch
from torch import Tensor

from ramen.ops.operation import twin
from ramen.ops.orthonormal import factor_unit_columns, noise, unit_columns

PASSES = 2  # 1e-8 / m is the smallest singular value met: one pass brings it to about 1e-4, two to 1 within 1e-6
NOISE = 1e-8  # relative to a column; under the rounding of a float32 input


@twin(factor_unit_columns, "cuda")
def cholesky_qr(a: Tensor) -> Tensor:
    """Q (..., m, s) of a (..., m, s) with columns of length 1."""
    m, s = a.shape[-2:]
    q = unit_columns(a.double() + NOISE * noise(a))
    shift = 10 * m * torch.finfo(q.dtype).eps  # above the rounding of the Gram matrix: it stays positive definite
    eye = torch.eye(s, dtype=q.dtype, device=q.device)
    for k in range(PASSES):
        gram = q.mT @ q  # (..., s, s)
        factor, info = torch.linalg.cholesky_ex(gram + shift * eye if k + 1 < PASSES else gram)
        solved = torch.linalg.solve_triangular(factor.mT, q, upper=True, left=False)  # (..., m, s)
        q = torch.where((info == 0)[..., None, None], solved, q)
    return q.to(a.dtype)
