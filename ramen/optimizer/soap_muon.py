"""SOAP-Muon: Muon on a momentum preconditioned in Shampoo's eigenbasis.

With running means L of G G^T and R of G^T G and their eigenvectors Q_L, Q_R, the momentum U (Nesterov's) is seen in that basis,
divided by the root of its own running mean square there, turned back, and orthogonalised:
    P = Q_L^T U Q_R;  V <- lerp(V, P^2, 1 - beta2);  step along polar(Q_L [P / sqrt(V)] Q_R^T)
After the step the means take G in, and every `refresh_steps` steps the columns of Q_L are sorted by falling q^T L q, V with them,
and Q_L <- Q factor of L Q_L, one step of orthogonal iteration; so with Q_R. The first step is Muon's, and the first bases are
eigenvectors.
Sources: github.com/KellerJordan/modded-nanogpt, pull requests 278 and 321 (which refreshes every step); SOAP: Vyas et al. 2024,
arXiv 2409.11321.
Cost: Muon's plus 6 (m + n) m n for turns and means, and about 5 (m^3 + n^3) for each refresh (`sides: short`: that side's part of
it). State: 2 m n + 1, float32, and 2 m^2 + 2 n^2 (short: 2 min(m, n)^2), float64: in float32 rounding would order the columns.
Differs from the sources: their Contra-Muon, NorMuon, floor of the update against the weight and 12 steps of Newton-Schulz are left
out; small P are divided by at least 1e-4 of the largest root (theirs: 1e-8); where the means say nothing the bases stay as they
were, for the factor is of L Q + 1e-4 tr(L) / m Q, and first eigenvectors without a gradient are the identity's columns (with the
sources' rounding chooses them); `sides: short` preconditions the shorter side alone; means are of gradients in units of the first
one's largest entry, so their squares neither over- nor underflow.
"""

from collections.abc import Hashable
from typing import Any, Literal

import torch
from torch import Tensor

from ramen.ops.bank import amax, stack
from ramen.ops.checks import Count, Fraction
from ramen.ops.orthonormal import orthonormal_factor
from ramen.optimizer.base import Bank, Group, State
from ramen.optimizer.muon import Muon, orthogonalise

SECOND_MOMENT, UNIT = "second_moment", "unit"
STEP = "step_of_bases"  # kept in the group, and so in its state
EPS = 1e-4  # relative: of root mean squares to their largest, of the old direction to the means' average eigenvalue


class SOAPMuon(Muon):
    """Steps along the polar factor of the momentum, divided in Shampoo's eigenbasis by its root mean square."""

    group_state = frozenset({STEP})

    def __init__(
        self, params: Any, *, beta2: Fraction, refresh_steps: Count, sides: Literal["both", "short"], **base: Any
    ):
        super().__init__(params, beta2=beta2, refresh_steps=refresh_steps, sides=sides, **base)

    def initial_state(self, matrices: Tensor, group: Group) -> State:
        state = {SECOND_MOMENT: torch.zeros_like(matrices), UNIT: matrices.new_zeros(len(matrices))}
        for axis, side in _sides(matrices, group):
            eye = torch.eye(matrices.shape[axis], dtype=torch.float64, device=matrices.device)
            state[f"{side}_basis"] = eye.repeat(len(matrices), 1, 1)
            state[f"{side}_mean"] = torch.zeros_like(state[f"{side}_basis"])
        return state

    def begin(self) -> Hashable:
        for group in self.param_groups:
            known = any(p in self.state for p in group["params"])
            group[STEP] = group.get(STEP, -1) + 1 if known else 0
        return super().begin(), *map(_refreshes, self.param_groups)

    def update(self, bank: Bank, group: Group) -> None:
        gradient, state = stack(bank.gradients), bank.state
        # In units of the largest entry of the first gradient that was not zero.
        state[UNIT].copy_(torch.where(state[UNIT] > 0, state[UNIT], amax(gradient, (-2, -1)).flatten()))
        unit = state[UNIT].clamp_min(_tiny(gradient))[:, None, None]
        gradient.div_(unit)
        used = self.accumulate(bank, group)
        step = self._precondition(used / unit, state, group)
        if bank.fresh is not None:  # they have no bases yet
            state[SECOND_MOMENT].masked_fill_(bank.fresh, 0.0)
            step = torch.where(bank.fresh, used, step)
        self.move(bank, orthogonalise(step, group), group)
        gradient = gradient.double()
        for axis, side in _sides(gradient, group):
            left, right = (gradient, gradient.mT) if axis == -2 else (gradient.mT, gradient)
            mean, basis = state[f"{side}_mean"], state[f"{side}_basis"]
            torch.baddbmm(mean, left, right, beta=group["beta2"], alpha=1 - group["beta2"], out=mean)
            if _refreshes(group):
                _refresh(basis, mean, state[SECOND_MOMENT], axis)
            if bank.fresh is not None:
                basis.copy_(torch.where(bank.fresh, _eigenvectors(mean), basis))
        bank.fresh = None

    def _precondition(self, used: Tensor, state: State, group: Group) -> Tensor:
        turned = _turn(used, state, group)
        root = state[SECOND_MOMENT].lerp_(turned.square(), 1 - group["beta2"]).sqrt()
        floor = root.amax(dim=(-2, -1), keepdim=True).mul_(EPS).clamp_min_(_tiny(root))
        return _turn(turned.div_(root.clamp_min_(floor)), state, group, back=True)


def _turn(x: Tensor, state: State, group: Group, back: bool = False) -> Tensor:
    """x in the eigenbases; `back`: x out of them."""
    for axis, side in _sides(x, group):
        basis = state[f"{side}_basis"].to(x.dtype)
        basis = basis if back else basis.mT  # rows: Q^T X or Q X; columns: X Q or X Q^T
        x = basis @ x if axis == -2 else x @ basis.mT
    return x


def _refresh(basis: Tensor, mean: Tensor, second_moment: Tensor, axis: int) -> None:
    """Sort the basis (N, s, s) by the mean's size along it, the second moment's axis with it, and turn it towards eigenvectors."""
    trace = mean.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None].clamp_min_(_tiny(mean))
    product = (mean / trace) @ basis
    order = (basis * product).sum(dim=-2).argsort(dim=-1, descending=True)  # (N, s)
    places = order.unsqueeze(-1 if axis == -2 else -2).expand_as(second_moment)
    second_moment.copy_(second_moment.gather(axis, places))
    turned = torch.add(product, basis, alpha=EPS / basis.shape[-1])
    basis.copy_(orthonormal_factor(turned.gather(-1, order.unsqueeze(-2).expand_as(basis))))


def _eigenvectors(mean: Tensor) -> Tensor:
    """Eigenvectors (N, s, s) by falling eigenvalue; from where there is nothing, completed by columns of the identity."""
    values, vectors = torch.linalg.eigh(mean.nan_to_num())
    size = values[:, -1:].clamp_min(_tiny(mean))  # ascending
    known = (values > EPS * size / values.shape[-1]).flip(-1).unsqueeze(-2)  # (N, 1, s)
    eye = torch.eye(mean.shape[-1], dtype=mean.dtype, device=mean.device)
    return orthonormal_factor(torch.where(known, vectors.flip(-1), eye))


def _tiny(x: Tensor) -> float:
    return torch.finfo(x.dtype).tiny


def _refreshes(group: Group) -> bool:
    return bool(group[STEP] % group["refresh_steps"] == 0)


def _sides(matrices: Tensor, group: Group) -> list[tuple[int, str]]:
    """The axes that are preconditioned, and their names."""
    both = [(-2, "row"), (-1, "column")]
    if group["sides"] == "both":
        return both
    return both[:1] if matrices.shape[-2] < matrices.shape[-1] else both[1:]
