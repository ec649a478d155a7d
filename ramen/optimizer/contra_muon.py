"""Contra-Muon: Muon's step less a share of the momentum itself, scaled to spectral norm 1.

A singular value x (relative to the largest) is mapped to 1 - contra x in place of 1, and all of them are then multiplied by what
restores the Frobenius norm: the directions in which the momentum is strongest move a little less than the others.
Source: Lin 2026, https://github.com/nilin/contra-muon ; github.com/KellerJordan/modded-nanogpt/pull/275 (CONTRA_MUON / 2 = 0.2).
Cost: Muon's plus about 4 m n for each step of power iteration. State: m n + m, float32.
Differs from the source: the spectral norm is by power iteration with a vector that persists (it is not above the true one, by a few
per cent at most as the momentum turns slowly), and the NorMuon and norm floor of that record are left out.
"""

from typing import Any

import torch
from torch import Tensor

from ramen.ops.checks import Count, Fraction
from ramen.ops.power_iteration import spectral_norm, start_vector
from ramen.optimizer.base import Group, State
from ramen.optimizer.muon import Muon, orthogonalise

POWER = "power_vector"
TINY = torch.finfo(torch.float32).tiny


class ContraMuon(Muon):
    """Steps along polar(U) - contra U / ||U||_2, brought back to the polar factor's Frobenius norm."""

    def __init__(self, params: Any, *, contra: Fraction, power_steps: Count, **base: Any):
        super().__init__(params, contra=contra, power_steps=power_steps, **base)

    def initial_state(self, matrices: Tensor, group: Group) -> State:
        return {POWER: start_vector(matrices)}

    def direction(self, momentum: Tensor, state: State, group: Group) -> Tensor:
        norm, vector = spectral_norm(momentum, state[POWER], steps=group["power_steps"])
        state[POWER].copy_(vector)
        share = norm.clamp_min_(TINY).reciprocal_()[:, None, None]
        step = orthogonalise(momentum, group)
        size = torch.linalg.vector_norm(step, dim=(-2, -1), keepdim=True)
        step.addcmul_(momentum, share, value=-group["contra"])
        return step.mul_(size / torch.linalg.vector_norm(step, dim=(-2, -1), keepdim=True).clamp_min_(TINY))
