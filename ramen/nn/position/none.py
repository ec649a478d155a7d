"""NoPE: no position information but the causal mask.

Source: Kazemnejad et al. 2023, arXiv 2305.19466.
"""

from torch import Tensor

from ramen.nn.contracts import Position


class NoPE(Position):
    """The identity."""

    turning = 0
    table = None  # attention's kernel need not call this

    def forward(self, x: Tensor) -> Tensor:
        return x
