"""RMS norm with a gain: x / sqrt(mean(x^2) + eps) * g, one number g a dimension.

Source: Zhang and Sennrich 2019, arXiv 1910.07467.
Cost: that of rms and one more pass. Parameters: D a norm, 1 at first, of role `scalar`.
"""

from torch import Tensor

from ramen.nn.contracts import Norm
from ramen.nn.parameter import constant, parameter
from ramen.ops.rms_norm import rms_norm


class RMSGain(Norm):
    """A vector of root mean square 1, times the gain."""

    def __init__(self, dim: int):
        super().__init__(dim)
        self.gain = parameter((dim,), constant(1.0), "scalar")

    def forward(self, x: Tensor) -> Tensor:
        # The product is of the gain's type, which rounds no small change away.
        return (rms_norm(x) * self.gain).to(x.dtype)
