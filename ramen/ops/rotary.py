"""Rotation of pairs of dimensions by an angle that grows with the position: what every rotary embedding shares.

A pair is (x_2i, x_2i+1), as in the paper (Su et al. 2021, arXiv 2104.09864).
A position module whose whole work is `rotate(x, table)` shows its table as `table`, and one that does nothing shows None: then
attention's kernel can do that work (ramen/ops/attention.py). `turning` is how many dimensions of a head, its first ones, depend on
the position.
"""

import torch
from torch import Tensor

from ramen.ops.operation import operation


def rotation_table(frequencies: Tensor, length: int) -> Tensor:
    """(T, K/2, 2): cosine and sine in float32 for frequencies (K/2,) in radians a token, computed in float64."""
    angles = torch.outer(torch.arange(length, device=frequencies.device, dtype=torch.float64), frequencies.double())
    return torch.stack((angles.cos(), angles.sin()), dim=-1).float()


def positions(table: Tensor, length: int) -> Tensor:
    """The first `length` positions of a table; ValueError when it has not as many."""
    if length > table.shape[0]:
        raise ValueError(f"a row may have {table.shape[0]} tokens (data.sequence_length), got {length}")
    return table[:length]


@operation
def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotate the pairs of (B, T, ..., K) by the angles of their position (axis 1)."""
    table = positions(table, x.shape[1]).to(x.dtype)
    cos, sin = table.view(len(table), *(1,) * (x.dim() - 3), -1, 2).unbind(-1)  # (T, 1, ..., K/2)
    first, second = x.unflatten(-1, (-1, 2)).unbind(-1)  # (B, T, ..., K/2)
    return torch.stack((first * cos - second * sin, second * cos + first * sin), dim=-1).flatten(-2)
