"""Low-rank linear maps without bias: each matrix of the bank is a product of two factors of its own.

W (rows, columns) = left (rows, r) right (r, columns) with r = ratio x min(rows, columns). A product's entries start with the
standard deviation a dense matrix would have, and its factors with equal Frobenius norms, as gradient descent keeps them. For a
standard deviation of 0 the left factor starts at zero and the right one at unit rows: the product is zero, and learns.
Sources: native low-rank training: Janson et al. 2026, arXiv 2602.12429; balanced factors: Khodak et al. 2021, arXiv 2105.01029.
Cost: 2 r (rows + columns) FLOPs a token and matrix; less than dense when r < rows columns / (rows + columns).
Differs from the sources: no SVD of a dense start; factors are drawn at once, uniform.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ramen.nn.contracts import Linear
from ramen.nn.parameter import declare_factors, parameter, uniform
from ramen.ops.checks import check_range


class LowRank(Linear):
    """A bank of independent products (N, rows, r) (N, r, columns), one for each entry of `stds`."""

    def __init__(self, rows: int, columns: int, stds: tuple[float, ...], *, ratio: float):
        super().__init__()
        check_range("(0, 1]", ratio=ratio)
        rank = max(1, round(ratio * min(rows, columns)))
        left, right = zip(*(_factor_stds(rows, columns, rank, std) for std in stds), strict=True)
        self.left = parameter((len(stds), rows, rank), uniform(*left), "matrix")
        self.right = parameter((len(stds), rank, columns), uniform(*right), "matrix")
        declare_factors(self.left, self.right)

    def forward(self, x: Tensor, first: int = 0, last: int | None = None) -> Tensor:
        left, right = self.left[first:last], self.right[first:last]
        hidden = F.linear(x, right.flatten(0, 1))  # (..., n x r)
        if len(left) == 1:
            return F.linear(hidden, left[0])
        hidden = hidden.unflatten(-1, right.shape[:2])  # (..., n, r)
        return torch.einsum("...nr,nmr->...nm", hidden, left).flatten(-2)


def _factor_stds(rows: int, columns: int, rank: int, std: float) -> tuple[float, float]:
    """Standard deviations of the two factors: rank left^2 right^2 = std^2 and rows left^2 = columns right^2."""
    if std == 0:
        return 0.0, columns**-0.5
    middle = std / rank**0.5
    return (middle * (columns / rows) ** 0.5) ** 0.5, (middle * (rows / columns) ** 0.5) ** 0.5
