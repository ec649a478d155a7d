"""Half-truncated RoPE: rotates half of the pairs, with geometric frequencies from 1 to 1/base.

The other dimensions carry no position but content that no distance changes; key offset (long layers) relies on them.
Source: modded-nanogpt, https://github.com/KellerJordan/modded-nanogpt (Rotary, base 1024, both end points included).
"""

import torch
from torch import Tensor

from ramen.nn.position.rope import RoPE


class HalfRoPE(RoPE):
    """Rotates the first half of the pairs of a head."""

    turning_share = 0.5

    def spectrum(self, head_width: int, base: float) -> Tensor:
        if head_width % 4:
            raise ValueError(f"half of the pairs turn: the head width must be divisible by 4, got {head_width}")
        steps = torch.linspace(0, 1, head_width // 4, device="cpu", dtype=torch.float64)
        return torch.cat([base**-steps, torch.zeros_like(steps)])
