"""NorMuon: Muon whose rows are normalised by a running second moment, one number a row.

Orthogonalised updates have uneven rows; dividing by the root of a running mean square of each row evens them out, and the
Frobenius norm is then restored: that of the orthogonal matrix (the authors' code, `scaling: spectral`), or sqrt(min(m, n)),
which makes the step's RMS exactly 0.2 lr (the paper, `scaling: rms`).
Source: Li et al. 2025, arXiv 2510.05491, https://github.com/zichongli5/NorMuon.
Cost: Muon's plus about 6 m n. State: m n + m (with `axis: long`, max(m, n)), float32.
Differs from the source: Polar Express by default; decay is cautious; `axis: long` keeps one number for each slice along the longer
side (modded-nanogpt), `axis: rows` is the paper's.
"""

import math
from typing import Any, Literal

import torch
from torch import Tensor

from ramen.ops.checks import Fraction
from ramen.optimizer.base import Group, State
from ramen.optimizer.muon import Muon, orthogonalise

SECOND_MOMENT = "second_moment"
TINY = torch.finfo(torch.float32).tiny
EPS = 1e-10  # against the root mean square of a row of an orthogonal matrix, 1 / sqrt(n) or so: the source's


class NorMuon(Muon):
    """Steps along the polar factor of the momentum, its rows scaled by 1 / sqrt(running mean square)."""

    tensors = Muon.tensors | {"beta2"}

    def __init__(self, params: Any, *, beta2: Fraction, axis: Literal["rows", "long"], **base: Any):
        super().__init__(params, beta2=beta2, axis=axis, **base)

    def initial_state(self, matrices: Tensor, group: Group) -> State:
        return {SECOND_MOMENT: torch.zeros_like(matrices.narrow(_axis(matrices, group), 0, 1))}

    def direction(self, momentum: Tensor, state: State, group: Group) -> Tensor:
        orthogonal = orthogonalise(momentum, group)
        axis = _axis(orthogonal, group)
        sizes = torch.linalg.vector_norm(orthogonal, dim=axis, keepdim=True)  # (N, m, 1) or (N, 1, n)
        mean_square = (sizes / math.sqrt(orthogonal.shape[axis])).square_()
        inverse = state[SECOND_MOMENT].lerp_(mean_square, 1 - group["beta2"]).sqrt().add_(EPS).reciprocal_()
        evened = torch.linalg.vector_norm(sizes * inverse, dim=(-2, -1), keepdim=True)  # its Frobenius norm
        if group["scaling"] == "rms":
            norm: Tensor | float = math.sqrt(min(orthogonal.shape[-2:]))
        else:
            norm = torch.linalg.vector_norm(sizes, dim=(-2, -1), keepdim=True)
        return orthogonal.mul_(inverse.mul_(norm / evened.clamp_min_(TINY)))


def _axis(matrices: Tensor, group: Group) -> int:
    """The axis a slice's mean square is taken over."""
    rows, columns = matrices.shape[-2:]
    return -2 if group["axis"] == "long" and rows < columns else -1
