"""Half-truncated RoPE: half of the pairs turn, with geometric frequencies from 1 to 1/base, the other half stand still.

The still dimensions carry content that no distance changes; key offset (long layers) relies on them.
Source: modded-nanogpt, https://github.com/KellerJordan/modded-nanogpt (Rotary, base 1024, both end points included).
"""

import torch
from torch import Tensor

from ramen.nn.contracts import Position
from ramen.ops.checks import check_range
from ramen.ops.rotary import rotate, rotation_table


class HalfRoPE(Position):
    """Rotates the first half of the pairs of a head."""

    def __init__(self, head_width: int, sequence_length: int, *, base: float):
        super().__init__(head_width, sequence_length)
        check_range("(1, inf)", base=base)
        if head_width % 4:
            raise ValueError(f"half of the pairs turn: the head width must be divisible by 4, got {head_width}")
        self.turning = head_width // 2
        steps = torch.linspace(0, 1, head_width // 4, device="cpu", dtype=torch.float64)
        self.frequencies: Tensor
        self.table: Tensor
        frequencies = torch.cat([base**-steps, torch.zeros_like(steps)])  # (K/2,) radians a token
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.register_buffer("table", rotation_table(frequencies, sequence_length), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return rotate(x, self.table)
