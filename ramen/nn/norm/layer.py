"""LayerNorm: (x - mean(x)) / sqrt(var(x) + eps) * g + b, one g and one b a dimension.

Source: Ba et al. 2016, arXiv 1607.06450; without b: nanoGPT. eps is 1e-5, as there and in torch.
Cost: torch's own operation, three passes over (B, T, D). Parameters: D a norm, with bias 2 D, of role `scalar`.
"""

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from ramen.nn.contracts import Norm
from ramen.nn.parameter import constant, parameter
from ramen.ops.bank import upcast

EPS = 1e-5


class Layer(Norm):
    """A vector of mean 0 and variance 1, times the gain, and plus the bias where there is one."""

    def __init__(self, dim: int, *, bias: bool):
        super().__init__(dim)
        self.gain = parameter((dim,), constant(1.0), "scalar")
        self.bias: Any = parameter((dim,), constant(0.0), "scalar") if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(upcast(x), x.shape[-1:], self.gain, self.bias, EPS).to(x.dtype)
