"""NoPE: no position information but the causal mask.

Source: Kazemnejad et al. 2023, arXiv 2305.19466.
"""

from torch import Tensor, nn


class NoPE(nn.Module):
    """The identity."""

    def __init__(self, head_width: int, sequence_length: int):
        super().__init__()
        self.turning = 0
        self.table = None  # attention's kernel need not call this

    def forward(self, x: Tensor) -> Tensor:
        return x
