"""The standard residual stream: h + branch(h).

Source: He et al. 2015, arXiv 1512.03385.
"""

from collections.abc import Callable

from torch import Tensor, nn


class Standard(nn.Module):
    """One stream; a sublayer's delta is added to it."""

    def __init__(self, dim: int, sublayer: int):
        super().__init__()

    def open(self, x: Tensor) -> Tensor:
        return x

    def connect(self, h: Tensor, branch: Callable[[Tensor], Tensor]) -> Tensor:
        return h + branch(h)

    def close(self, h: Tensor) -> Tensor:
        return h
