"""BAM, balanced axis momentum: rows and columns of the momentum brought to unit norm in turn.

A cheap stand-in for orthogonalisation: the step has an exact polar factor's Frobenius norm and even rows or columns, but its
singular values are not equal.
Source: Mangla 2026, https://github.com/knightron0/bam.
Cost: about 8 m n FLOPs, bound by memory. State: m n.
Differs from the source: decay is cautious; eps is relative, so the step does not depend on the gradient's scale.
"""

from typing import Any

from torch import Tensor

from ramen.ops.checks import Count
from ramen.ops.sinkhorn import balance_axes
from ramen.optimizer.base import Group, MatrixOptimizer, Scaling, State


class BAM(MatrixOptimizer):
    """Steps along the momentum with balanced axes; `half` normalises the last axis alone (HalfBAM)."""

    def __init__(self, params: Any, *, scaling: Scaling, balance_steps: Count, half: bool, **base: Any):
        super().__init__(params, scaling=scaling, balance_steps=balance_steps, half=half, **base)

    def direction(self, momentum: Tensor, state: State, group: Group) -> Tensor:
        return balance_axes(momentum, steps=group["balance_steps"], half=group["half"])
