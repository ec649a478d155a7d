"""Root-mean-square normalisation: x / sqrt(mean(x^2) + eps) over the last axis, without gain or with one of 1 + g.

g starts at zero, so that weight decay pulls the gain to 1.
Source: Zhang and Sennrich 2019, arXiv 1910.07467. eps is torch's default, the machine epsilon of float32.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ramen.ops.operation import operation

EPS = torch.finfo(torch.float32).eps


@operation
def rms_norm(x: Tensor) -> Tensor:
    """(..., D) -> (..., D) of root mean square 1, in x's dtype; a zero vector stays zero."""
    return F.rms_norm(x, x.shape[-1:], eps=EPS).to(x.dtype)


def rms_norm_gain(x: Tensor, gain: Tensor) -> Tensor:
    """(..., D), (D,) -> (..., D) in x's dtype; the product is in gain's, or a small gain would be rounded away."""
    return (rms_norm(x) * (1 + gain)).to(x.dtype)
