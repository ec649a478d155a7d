"""The standard residual stream: h + branch(h).

Source: He et al. 2015, arXiv 1512.03385.
"""

from torch import Tensor

from ramen.nn.contracts import Branch, Residual


class Standard(Residual):
    """One stream; a sublayer's delta is added to it."""

    def connect(self, h: Tensor, branch: Branch) -> Tensor:
        return h + branch(h)
