"""RMS norm without gain: x / sqrt(mean(x^2) + eps). The maps behind it take the gain's part.

Source: Zhang and Sennrich 2019, arXiv 1910.07467; without gain: modded-nanogpt.
Cost: two passes over (B, T, D). No parameters.
"""

from torch import Tensor

from ramen.nn.contracts import Norm
from ramen.ops.rms_norm import rms_norm


class RMS(Norm):
    """A vector of root mean square 1."""

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x)
