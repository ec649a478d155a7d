"""RoPE: rotary position embedding over the whole head width.

Pair i of K/2 turns by base^(-2i/K) radians a token; queries and keys meet at their difference of positions only.
Source: Su et al. 2021, arXiv 2104.09864. Pairs are neighbours (x_2i, x_2i+1), as in the paper.
"""

import torch
from torch import Tensor

from ramen.nn.contracts import Position
from ramen.ops.checks import check_range
from ramen.ops.rotary import rotate, rotation_table


class RoPE(Position):
    """Rotates every pair of a head."""

    turning_share = 1.0  # of a head's dimensions
    table: Tensor

    def __init__(self, head_width: int, sequence_length: int, dim: int, *, base: float):
        super().__init__(head_width, sequence_length, dim)
        check_range("(1, inf)", base=base)
        self.turning = int(self.turning_share * head_width)
        table = rotation_table(self.spectrum(head_width, base), sequence_length)
        self.register_buffer("table", table, persistent=False)

    def spectrum(self, head_width: int, base: float) -> Tensor:
        """Frequencies (K/2,) of the pairs in radians a token, float64."""
        return base ** (-torch.arange(0, head_width, 2, device="cpu", dtype=torch.float64) / head_width)

    def forward(self, x: Tensor) -> Tensor:
        return rotate(x, self.table)
