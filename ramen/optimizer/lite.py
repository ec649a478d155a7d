"""LITE on Muon: flat directions move faster than sharp ones, and are pulled along the gradient's own polar factor.

For momentum U and gradient G: S = polar(U), H = polar(G). P = (S + polar(U / t - S)) / 2 keeps the singular directions of U above
a threshold t = rho ||U||_F; they are the sharp ones, and F = I - P^T P projects rows onto the flat rest.
    D = S + beta1 H + (beta - beta1) H F;   step along D + (chi_t - 1) D F;   decay W + (chi_t - 1) W F
    beta = beta1 + (beta2 - beta1) beta_ramp,   chi_t = 1 + (chi - 1) chi_ramp
rho of each matrix is steered, 5 % a step, so that ||P||_F^2 is k = ratio x min(m, n): a tenth of the directions is sharp.
The ramps are schedules of the yaml: beta_ramp rises over the first half of the run, chi_ramp rises with it and falls to 0.
Source: Zhu et al. 2026, arXiv 2602.22681, https://github.com/SHUCHENZHU/LITE (muonlite.py).
Cost: 3 polar factors (Muon has 1) and about 12 min(m, n) m n for the projections. State: m n + 1, float32.
Differs from the source: the gradient's factor is left out while both its coefficients are 0; cautious decay, when on, masks
the extra decay too; chi follows a curve of the run's progress, the source's for its cosine schedule, whatever the learning
rate's; embeddings, head and norms are the auxiliary optimizer's, without LITE.
"""

import math
from functools import partial
from typing import Annotated, Any

import torch
from torch import Tensor

from ramen.ops.bank import Factor, add, frobenius, is_zero, stack
from ramen.ops.checks import Count, Inner, Share, check_range
from ramen.ops.polar_express import polar_express
from ramen.optimizer.base import Bank, Group, IterationType, MatrixOptimizer, Scaling, State, iteration_type

THRESHOLD = "threshold"
TINY = torch.finfo(torch.float32).tiny
Gain = Annotated[float, partial(check_range, "[-1, 10)")]
STEER = 0.05  # how much a step moves the threshold


class LITE(MatrixOptimizer):
    """Muon with gains for flat directions: beta of the gradient's polar factor, chi of the whole step."""

    tensors = MatrixOptimizer.tensors | {"beta1", "beta2", "beta_ramp", "chi", "chi_ramp"}

    def __init__(
        self, params: Any, *, scaling: Scaling, steps: Count, iteration_dtype: IterationType, ratio: Inner, beta1: Gain,
        beta2: Gain, beta_ramp: Share, chi: Annotated[float, partial(check_range, "[0, 100)")], chi_ramp: Share, **base: Any,
    ):  # fmt: skip
        super().__init__(
            params, scaling=scaling, steps=steps, iteration_dtype=iteration_dtype, ratio=ratio, beta1=beta1, beta2=beta2,
            beta_ramp=beta_ramp, chi=chi, chi_ramp=chi_ramp, **base,
        )  # fmt: skip

    def initial_state(self, matrices: Tensor, group: Group) -> State:
        return {THRESHOLD: matrices.new_full(matrices.shape[:1], min(matrices.shape[-2:]) ** -0.5)}

    def update(self, bank: Bank, group: Group) -> None:
        used = self.accumulate(bank, group)
        sharp, flat = group["beta1"], (group["beta2"] - group["beta1"]) * group["beta_ramp"]
        gain = (group["chi"] - 1) * group["chi_ramp"]
        if is_zero(sharp) and is_zero(flat):
            step, gradient_step = _polar(used, group), None
        else:  # both polar factors in one call
            step, gradient_step = _polar(torch.cat([used, stack(bank.gradients)]), group).chunk(2)
        top = self._top(used, step, bank.state[THRESHOLD], group)
        gram = top.mT @ top if top.shape[-2] >= top.shape[-1] else None  # the smaller of two ways to multiply by F

        def add_flat(into: Tensor, x: Tensor, factor: Factor) -> Tensor:  # into + factor x F
            left, right = (x, gram) if gram is not None else (x @ top.mT, top)
            return add(into, torch.baddbmm(x, left, right, alpha=-1), factor)

        if gradient_step is not None:
            step = add_flat(add(step, gradient_step, sharp), gradient_step, flat)
        decay_target = None
        if not is_zero(gain):
            step = add_flat(step, step, gain)
            weight = stack(bank.params)
            decay_target = add_flat(weight, weight, gain)
        self.move(bank, step, group, decay_target=decay_target)

    def _top(self, used: Tensor, step: Tensor, threshold: Tensor, group: Group) -> Tensor:
        """P (N, m, n), with singular values near 1 above the threshold and near 0 below; steers the threshold."""
        m, n = used.shape[-2:]
        level = frobenius(used).mul_(threshold[:, None, None]).clamp_min_(TINY)
        top = _polar((used / level).sub_(step), group).lerp_(step, 0.5)
        rank = min(int(group["ratio"] * min(m, n)) + 1, min(m, n) - 1)
        over = torch.linalg.vector_norm(top, dim=(-2, -1)) > math.sqrt(rank)
        threshold.mul_(over.to(threshold.dtype).mul_(2 * STEER).add_(1 - STEER)).clamp_max_(1.0)
        return top


def _polar(x: Tensor, group: Group) -> Tensor:
    return polar_express(x, steps=group["steps"], dtype=iteration_type(group["iteration_dtype"], x.device))
