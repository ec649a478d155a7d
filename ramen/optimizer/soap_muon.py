"""SOAP-Muon: Muon on a momentum preconditioned in Shampoo's eigenbasis.

With running means L of G G^T and R of G^T G and their eigenvectors Q_L, Q_R, the momentum U is seen in that basis, divided by the
root of a running mean square of the gradient there, turned back, and orthogonalised:
    U' = Q_L [ (Q_L^T U Q_R) / sqrt(V) ] Q_R^T,   V <- lerp(V, (Q_L^T G Q_R)^2, 1 - beta2),   step along polar(U')
Every `refresh_steps` steps Q_L becomes the Q factor of L Q_L, one step of orthogonal iteration; so does Q_R. The momentum lives in
these bases, so it is turned when they are and not every step.
Sources: github.com/KellerJordan/modded-nanogpt, pull requests 278 and 321; SOAP: Vyas et al. 2024, arXiv 2409.11321.
Cost: Muon's plus 6 (m + n) m n for the turns and means, and about 5 (m^3 + n^3) for each refresh (`sides: short`: that side's
part of it). State: 2 m n + 2 m^2 + 2 n^2 + 1 (short: 2 m n + 2 min(m, n)^2 + 1), float32.
Differs from the sources: the bases start as the identity and are turned by orthogonal iteration from the first step, without an
eigendecomposition (as with one, rounding chooses among directions that no gradient has reached); `sides: short` preconditions the
shorter side alone; momentum and means are of gradients in units of the first one's largest entry, so their squares neither over-
nor underflow.
"""

from collections.abc import Hashable
from typing import Any, Literal

import torch
from torch import Tensor

from ramen.ops.bank import accumulate, amax
from ramen.ops.checks import check_at_least, check_one_of, check_within
from ramen.ops.orthonormal import orthonormal_factor
from ramen.optimizer.base import MOMENTUM, Bank, Group, State
from ramen.optimizer.muon import Muon, orthogonalise

SECOND_MOMENT, UNIT = "second_moment", "unit"
STEP = "step_of_bases"  # kept in the group, and so in its state
EPS = 1e-4  # relative to the largest root mean square: above rounding errors, which else were amplified to full size


class SOAPMuon(Muon):
    """Steps along the polar factor of the momentum, divided in Shampoo's eigenbasis by the gradient's root mean square."""

    group_state = frozenset({STEP})

    def __init__(self, params: Any, *, beta2: float, refresh_steps: int, sides: Literal["both", "short"], **base: Any):
        super().__init__(params, beta2=beta2, refresh_steps=refresh_steps, sides=sides, **base)

    def check(self, group: Group) -> None:
        super().check(group)
        check_within(0, 1, beta2=group["beta2"])
        check_at_least(1, refresh_steps=group["refresh_steps"])
        check_one_of("both", "short", sides=group["sides"])

    def initial_state(self, matrices: Tensor, group: Group) -> State:
        state = {SECOND_MOMENT: torch.zeros_like(matrices), UNIT: matrices.new_zeros(len(matrices))}
        for axis, side in _sides(matrices, group):
            eye = torch.eye(matrices.shape[axis], dtype=matrices.dtype, device=matrices.device)
            state[f"{side}_basis"] = eye.repeat(len(matrices), 1, 1)
            state[f"{side}_mean"] = torch.zeros_like(state[f"{side}_basis"])
        return state

    def begin(self) -> Hashable:
        for group in self.param_groups:
            group[STEP] = group.get(STEP, -1) + 1
        return super().begin(), *map(_refreshes, self.param_groups)

    def update(self, bank: Bank, group: Group) -> None:
        gradient, state = bank.gradient(), bank.state
        gradient.div_(_unit(gradient, state[UNIT]))
        for axis, side in _sides(gradient, group):
            mean = state[f"{side}_mean"]
            left, right = (gradient, gradient.mT) if axis == -2 else (gradient.mT, gradient)
            torch.baddbmm(mean, left, right, beta=group["beta2"], alpha=1 - group["beta2"], out=mean)
        if _refreshes(group):
            self._refresh(state, group)
        gradient = self._turn(gradient, state, group)
        used = accumulate([gradient], state[MOMENTUM], beta=group["momentum"], nesterov=group["nesterov"])
        root = state[SECOND_MOMENT].lerp_(gradient.square_(), 1 - group["beta2"]).sqrt()
        floor = root.amax(dim=(-2, -1), keepdim=True).mul_(EPS).clamp_min_(torch.finfo(root.dtype).tiny)
        used = torch.div(used, root.clamp_min_(floor), out=root)
        self.move(bank, orthogonalise(self._turn(used, state, group, back=True), group), group)

    def _refresh(self, state: State, group: Group) -> None:
        """Turn the bases, and the momentum from the old ones into the new."""
        momentum = state[MOMENTUM]
        plain = self._turn(momentum, state, group, back=True)
        for _, side in _sides(momentum, group):
            basis = state[f"{side}_basis"]
            basis.copy_(orthonormal_factor(state[f"{side}_mean"] @ basis))
        momentum.copy_(self._turn(plain, state, group))

    def _turn(self, x: Tensor, state: State, group: Group, back: bool = False) -> Tensor:
        """x in the eigenbases, or back."""
        for axis, side in _sides(x, group):
            basis = state[f"{side}_basis"]
            basis = basis if back else basis.mT  # rows: Q^T X or Q X; columns: X Q or X Q^T
            x = basis @ x if axis == -2 else x @ basis.mT
        return x


def _unit(gradient: Tensor, unit: Tensor) -> Tensor:
    """The largest sizes (N, 1, 1) in the first gradients that were not zero, kept in `unit` (N); above zero."""
    unit.copy_(torch.where(unit > 0, unit, amax(gradient, (-2, -1)).flatten()))
    return unit.clamp_min(torch.finfo(unit.dtype).tiny)[:, None, None]


def _refreshes(group: Group) -> bool:
    """Whether the step begun turns the bases."""
    return bool(group[STEP] % group["refresh_steps"] == 0)


def _sides(matrices: Tensor, group: Group) -> list[tuple[int, str]]:
    """The axes that are preconditioned, and their names."""
    both = [(-2, "row"), (-1, "column")]
    if group["sides"] == "both":
        return both
    return both[:1] if matrices.shape[-2] < matrices.shape[-1] else both[1:]
