"""Muon: momentum, orthogonalised.

The momentum's singular values are brought to about 1, so every direction of a matrix moves at the same rate.
Source: Keller Jordan, https://kellerjordan.github.io/posts/muon ; Polar Express: arXiv 2505.16932.
Cost: 20 s^2 l + 10 s^3 FLOPs for 5 steps on an m x n matrix (s short side, l long side). State: m n.
Differs from the source: Polar Express by default (`method: newton_schulz` is the first Muon's quintic, `newton_schulz_converging`
that of modded-nanogpt's track 3); decay is cautious.
"""

from typing import Any, Literal

from torch import Tensor

from ramen.ops.checks import Count
from ramen.ops.newton_schulz import CONVERGING, MUON, newton_schulz
from ramen.ops.polar_express import polar_express
from ramen.optimizer.base import Group, IterationType, MatrixOptimizer, Scaling, State, iteration_type

Method = Literal["polar_express", "newton_schulz", "newton_schulz_converging"]


def orthogonalise(x: Tensor, group: Group) -> Tensor:
    """The (approximate) polar factor of x (N, m, n) by the group's `method`, `steps` and `iteration_dtype`."""
    steps, dtype = group["steps"], iteration_type(group["iteration_dtype"], x.device)
    if group["method"] == "polar_express":
        return polar_express(x, steps=steps, dtype=dtype)
    coefficients = MUON if group["method"] == "newton_schulz" else CONVERGING
    return newton_schulz(x, steps=steps, coefficients=coefficients, dtype=dtype)


class Muon(MatrixOptimizer):
    """Steps along the polar factor of the momentum."""

    def __init__(
        self,
        params: Any,
        *,
        scaling: Scaling,
        method: Method,
        steps: Count,
        iteration_dtype: IterationType,
        **base: Any,
    ):
        super().__init__(params, scaling=scaling, method=method, steps=steps, iteration_dtype=iteration_dtype, **base)

    def direction(self, momentum: Tensor, state: State, group: Group) -> Tensor:
        return orthogonalise(momentum, group)
