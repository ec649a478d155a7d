"""Dense linear maps without bias: the ordinary full-rank parametrisation.

Cost: 2 rows x columns FLOPs a token and matrix.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ramen.nn.contracts import Linear
from ramen.nn.parameter import parameter, uniform


class Dense(Linear):
    """A bank of independent matrices (N, rows, columns), one for each entry of `stds`: uniform of that standard deviation."""

    def __init__(self, rows: int, columns: int, stds: tuple[float, ...]):
        super().__init__()
        self.weight = parameter((len(stds), rows, columns), uniform(*stds), "matrix")

    def forward(self, x: Tensor, first: int = 0, last: int | None = None) -> Tensor:
        return F.linear(x, self.weight[first:last].flatten(0, 1))

    def matrices(self) -> Tensor:
        return self.weight

    @torch.no_grad()
    def normalise(self, axis: int) -> None:
        self.weight.copy_(F.normalize(self.weight, dim=axis))
