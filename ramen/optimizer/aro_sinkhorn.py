"""ARO-Sinkhorn: steepest descent in a rotated basis that follows the momentum, with Sinkhorn's normalisation there.

For momentum M (s x l, its rotated side first) and f = Sinkhorn (rows and columns at RMS 1 in turn):
    R <- Q factor of M f(R^T M)^T,   D = R f(R^T M)
R (s x s) starts as the identity and persists. The step is brought to RMS `rms` x lr exactly.
Sources: Gong et al. 2026, arXiv 2602.09006; Sinkhorn: SinkGD, Scetbon et al. 2025, arXiv 2502.06742.
Cost: 8 s^2 l for the products, about 3 s^3 for the factor, 2 x sinkhorn_steps passes over m n. State: m n + s^2, float32.
Differs from the sources: f alternates and is exactly normalised (ARO prints one simultaneous division, which is not); the Q factor
has a positive diagonal in R and completes dependent columns, so R is orthonormal whatever the rank; directions without momentum
are left out of the step, where f would raise their rounding errors to full size; the rotated side is a choice:
`short` is the residual stream's of MLP maps (the source's) and never the costly one, columns for square maps.
"""

import math
from collections import defaultdict
from collections.abc import Hashable
from typing import Any, Literal

import torch
from torch import Tensor

from ramen.ops.bank import amax
from ramen.ops.checks import Count, NotNegative, Positive
from ramen.ops.orthonormal import orthonormal_factor
from ramen.ops.sinkhorn import sinkhorn
from ramen.optimizer.base import Group, MatrixOptimizer, State

ROTATION = "rotation"
STAGE = "stage_of_rotation"  # kept in the group, and so in its state
TINY = torch.finfo(torch.float32).tiny
NOISE = 1e3  # units of rounding against the largest row of R^T M: rows below count as none (1e-4 in float32)


class AROSinkhorn(MatrixOptimizer):
    """Steps along R f(R^T M)."""

    group_state = frozenset({STAGE})

    def __init__(
        self, params: Any, *, rms: Positive, sinkhorn_steps: Count, side: Literal["short", "long", "rows", "columns"],
        stage: NotNegative, **base: Any,
    ):  # fmt: skip
        super().__init__(params, rms=rms, sinkhorn_steps=sinkhorn_steps, side=side, stage=stage, **base)

    def initial_state(self, matrices: Tensor, group: Group) -> State:
        side = matrices.shape[-2 if _rotates_rows(matrices, group) else -1]
        return {ROTATION: torch.eye(side, dtype=matrices.dtype, device=matrices.device).repeat(len(matrices), 1, 1)}

    def begin(self) -> Hashable:
        self._restarts = [group.setdefault(STAGE, group["stage"]) != group["stage"] for group in self.param_groups]
        for group in self.param_groups:
            group[STAGE] = group["stage"]
        return super().begin(), *self._restarts

    def step_group(self, index: int, params: list[Tensor], group: Group) -> None:
        if self._restarts[index]:
            for p in group["params"]:
                rotation = self.state[p].get(ROTATION)
                if rotation is not None:
                    rotation.zero_().diagonal(dim1=-2, dim2=-1).fill_(1.0)
        banks = list(self.banks(params, group))
        momenta = [self.accumulate(bank, group) for bank in banks]
        self._rotate([bank.state[ROTATION] for bank in banks], momenta, group)
        for bank, momentum in zip(banks, momenta, strict=True):
            self.move(bank, self.direction(momentum, bank.state, group), group)

    def _rotate(self, rotations: list[Tensor], momenta: list[Tensor], group: Group) -> None:
        """R <- Q factor of M f(R^T M)^T, of all banks in one call: on CUDA it takes hardly longer than for one."""
        by_side = defaultdict[Any, list[tuple[Tensor, Tensor]]](list)
        for rotation, momentum in zip(rotations, momenta, strict=True):
            x = momentum if _rotates_rows(momentum, group) else momentum.mT  # (N, s, l)
            cross = x @ sinkhorn(rotation.mT @ x, steps=group["sinkhorn_steps"]).mT  # (N, s, s)
            by_side[cross.shape[-1], cross.dtype, cross.device].append((rotation, cross))
        for pairs in by_side.values():
            olds, crosses = zip(*pairs, strict=True)
            factors = orthonormal_factor(torch.cat(crosses)).split([len(cross) for cross in crosses])
            torch._foreach_copy_(list(olds), list(factors))

    def direction(self, momentum: Tensor, state: State, group: Group) -> Tensor:
        rotation, rotates_rows = state[ROTATION], _rotates_rows(momentum, group)
        turned = rotation.mT @ (momentum if rotates_rows else momentum.mT)  # (N, s, l)
        # Rows that are rounding errors are left out: f would bring them to the size of the others.
        size = amax(turned, -1)
        turned.mul_(size > NOISE * torch.finfo(turned.dtype).eps * size.amax(dim=-2, keepdim=True))
        basis = sinkhorn(turned, steps=group["sinkhorn_steps"])  # the step in the basis
        step = rotation @ basis if rotates_rows else basis.mT @ rotation.mT  # (N, m, n)
        norm = torch.linalg.vector_norm(step, dim=(-2, -1), keepdim=True)
        step.div_(norm.clamp_min_(TINY).div_(group["rms"] * math.sqrt(step[0].numel())))
        return step


def _rotates_rows(matrices: Tensor, group: Group) -> bool:
    m, n = matrices.shape[-2:]
    return {"rows": True, "columns": False, "short": m < n, "long": m > n}[group["side"]]
