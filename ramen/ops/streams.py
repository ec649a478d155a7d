"""Operations of a connection on its streams: weights from them, a branch's input from them, mixing, and writing to them.

Streams are (N, S, D), one small matrix a token.
"""

import torch
from torch import Tensor

from ramen.ops.operation import operation
from ramen.ops.rms_norm import rms_norm


@operation
def normed_linear(x: Tensor, weight: Tensor) -> Tensor:
    """rms_norm(x (..., D)) weight (F, D)^T -> (..., F)."""
    return rms_norm(x) @ weight.T


@operation
def read_and_mix(h: Tensor, read: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """h (N, S, D), read (N, f, S), shift (N, S, S) -> read h (N, f, D) and h + shift h (N, S, D)."""
    return torch.bmm(read, h), torch.baddbmm(h, shift, h)


@operation
def write(h: Tensor, weight: Tensor, delta: Tensor) -> Tensor:
    """h (N, S, f, W) + weight (N, S, f) x delta (N, f, W): each of f parts of delta is added to S slots."""
    return torch.addcmul(h, weight.unsqueeze(-1), delta.unsqueeze(1))
