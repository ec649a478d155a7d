"""Root-mean-square normalisation with a gain of 1 + g: g starts at zero, so that weight decay pulls the gain to 1.

Source: Zhang and Sennrich 2019, arXiv 1910.07467.
"""

from torch import Tensor

from ramen.ops.rms_norm import rms_norm


def rms_norm_gain(x: Tensor, gain: Tensor) -> Tensor:
    """(..., D), (D,) -> (..., D) in x's dtype; the product is in gain's, or a small gain would be rounded away."""
    return (rms_norm(x) * (1 + gain)).to(x.dtype)
