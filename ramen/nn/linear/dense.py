"""Dense linear maps without bias: the ordinary full-rank parametrisation.

Cost: 2 rows x columns FLOPs a token and matrix.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ramen.nn.contracts import Linear
from ramen.nn.parameter import normal, parameter, uniform
from ramen.ops.checks import check_one_of


class Dense(Linear):
    """A bank of independent matrices (N, rows, columns), one for each entry of `stds`, its standard deviation."""

    def __init__(self, rows: int, columns: int, stds: tuple[float, ...], *, init: Literal["uniform", "normal"]):
        super().__init__()
        check_one_of("uniform", "normal", init=init)
        initial = uniform(*stds) if init == "uniform" else normal(*stds)
        self.weight = parameter((len(stds), rows, columns), initial, "matrix")

    def forward(self, x: Tensor, first: int = 0, last: int | None = None) -> Tensor:
        return F.linear(x, self.weight[first:last].flatten(0, 1))

    def matrices(self) -> Tensor:
        return self.weight

    @torch.no_grad()
    def normalise(self, axis: int) -> None:
        self.weight.copy_(F.normalize(self.weight, dim=axis))
