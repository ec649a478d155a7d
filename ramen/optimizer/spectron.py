"""Spectron: Muon's step on both factors of a product, short enough that the product moves by no more than lr.

For W = A B with A (m, r), B (r, n): each factor steps along the polar factor of its momentum, at the pace
    rho = lr / (sigma_A + sigma_B + 1)
so that ||A' B' - A B||_2 <= rho (sigma_A + sigma_B) + rho^2 <= lr for lr <= 1; above, it may move by more. The spectral norms
sigma are of the factors as they are, by power iteration on the Gram matrices of the rank's side, with vectors that persist.
Source: Janson et al. 2026, arXiv 2602.12429.
Cost: Muon's on each factor, 20 r^2 m + 10 r^3, and 2 r^2 (m + n) for the Gram matrices. State: (m + n) r + 2 r, float32.
Differs from the source: Polar Express for Newton-Schulz, of 6 steps so that the bound holds to 0.2 % (5 steps: 14 %), and the power
iteration starts from 20 steps, not from a random vector. Decay is lr x weight_decay, as everywhere, outside the bound.
Needs factor pairs (ramen.nn.parameter.declare_factors), as linear=low_rank declares them.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from ramen.ops.bank import stack
from ramen.ops.checks import Count, Share
from ramen.ops.power_iteration import spectral_norm, start_vector
from ramen.optimizer.base import Group, IterationType, MatrixOptimizer, State
from ramen.optimizer.muon import Method, orthogonalise

POWER = "power_vector"
PAIRS = "pairs"  # kept in the group, and so in its state
FIRST_POWER_STEPS = 20


class Spectron(MatrixOptimizer):
    """Orthogonal steps on factor pairs, paced by the factors' spectral norms."""

    group_state = frozenset({PAIRS})

    def __init__(
        self, params: Any, *, lr: Share, method: Method, steps: Count, iteration_dtype: IterationType, power_steps: Count,
        **base: Any,
    ):  # fmt: skip
        super().__init__(
            params, lr=lr, method=method, steps=steps, iteration_dtype=iteration_dtype, power_steps=power_steps, **base
        )

    def check(self, group: Group) -> None:
        super().check(group)
        # The declared (left, right) pairs, by index: declarations are lost when parameters are copied.
        indices = {id(p): index for index, p in enumerate(group["params"])}
        partners = [id(vars(p).get("right_factor")) for p in group["params"]]
        group[PAIRS] = [(index, indices[partner]) for index, partner in enumerate(partners) if partner in indices]
        paired = {index for pair in group[PAIRS] for index in pair}
        alone = {tuple(p.shape) for index, p in enumerate(group["params"]) if index not in paired}
        if alone:
            shapes = ", ".join(map(str, sorted(alone)))
            raise ValueError(
                f"spectron needs factor pairs, got matrices without one, of shape {shapes}: add linear=low_rank"
            )

    def step_group(self, index: int, params: list[Tensor], group: Group) -> None:
        kinds: dict[tuple[Any, ...], list[tuple[Tensor, Tensor]]] = {}
        for left, right in ((group["params"][i], group["params"][j]) for i, j in group[PAIRS]):
            if left.grad is None or right.grad is None:  # a pair steps when both its factors have a gradient
                continue
            key = (left.shape[-2:], right.shape[-2:], left.dtype, left.device)
            kinds.setdefault(key, []).append((left, right))
        for pairs in kinds.values():
            lefts, rights = zip(*pairs, strict=True)
            right_bank = self.bank(rights, group)
            b = stack(rights)
            left_bank = self.bank(lefts, group, partial(_power_vectors, b))
            step_scale = _step_scale(stack(lefts), b, left_bank.state, group)
            left_step = orthogonalise(self.accumulate(left_bank, group), group)
            right_step = orthogonalise(self.accumulate(right_bank, group), group)
            self.move(left_bank, left_step, group, step_scale=step_scale)
            self.move(right_bank, right_step, group, step_scale=step_scale)


def _grams(a: Tensor, b: Tensor) -> Tensor:
    """A^T A and B B^T (N, 2, r, r), whose spectral norms are the squares of A's and B's."""
    return torch.stack([a.mT @ a, b @ b.mT], dim=1)


def _power_vectors(b: Tensor, a: Tensor, group: Group) -> State:
    grams = _grams(a, b)
    return {POWER: spectral_norm(grams, start_vector(grams), steps=FIRST_POWER_STEPS)[1]}


def _step_scale(a: Tensor, b: Tensor, state: State, group: Group) -> Tensor:
    """1 / (sigma_A + sigma_B + 1) of each pair (N, 1, 1)."""
    squares, vectors = spectral_norm(_grams(a, b), state[POWER], steps=group["power_steps"])  # (N, 2), (N, 2, r)
    state[POWER].copy_(vectors)
    return squares.sqrt_().sum(dim=1).add_(1).reciprocal_()[:, None, None]
