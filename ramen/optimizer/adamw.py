"""AdamW, with plain or cautious weight decay.

Sources: Loshchilov and Hutter 2017, arXiv 1711.05101; cautious decay: Chen et al. 2025, arXiv 2510.12402 (decay only where the
step and the weight have the same sign).
Cost: about 12 m n FLOPs, bound by memory: 7 m n numbers, by torch's fused kernel or, with cautious decay, by ramen.ops.adamw.
State: 2 m n, in the parameter's type.
"""

from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from ramen.ops.adamw import cautious_adamw, warm
from ramen.ops.checks import Fraction, NotNegative
from ramen.optimizer.base import Group, Optimizer

FIRST, SECOND, STEP = "exp_avg", "exp_avg_sq", "step"


class AdamW(Optimizer):
    """torch.optim.AdamW(fused=True); when cautious, the decay is masked by the sign of the step."""

    tensors = frozenset({"lr"})

    def __init__(
        self, params: Any, *, lr: NotNegative, beta1: Fraction, beta2: Fraction, eps: NotNegative, weight_decay: NotNegative,
        cautious: bool,
    ):  # fmt: skip
        defaults = dict(lr=lr, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay, cautious=cautious)
        super().__init__(params, defaults)

    def check(self, group: Group) -> None:
        super().check(group)
        if group["cautious"] and group["weight_decay"]:
            for p in group["params"][:1]:
                warm(p)

    def step_group(self, index: int, params: list[Tensor], group: Group) -> None:
        kinds: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
        for p in params:
            kinds.setdefault((p.device, p.dtype), []).append(p)
            if not self.state[p]:
                self.state[p] = {name: torch.zeros_like(p) for name in (FIRST, SECOND)}
                self.state[p][STEP] = torch.zeros((), device=p.device)
        decay, numbers = group["weight_decay"], {key: group[key] for key in ("lr", "beta1", "beta2", "eps")}
        for members in kinds.values():
            gradients = [_laid_out_as_parameter(p) for p in members]
            firsts, seconds, steps = ([self.state[p][name] for p in members] for name in (FIRST, SECOND, STEP))
            if group["cautious"] and decay:
                cautious_adamw(members, gradients, firsts, seconds, steps, decay=decay, **numbers)
            else:
                more = dict(fused=True, amsgrad=False, maximize=False, weight_decay=decay)
                adamw(members, gradients, firsts, seconds, [], steps, **more, **numbers)


def _laid_out_as_parameter(p: Tensor) -> Tensor:
    """The gradient with its parameter's strides: torch's fused kernel assumes them without a check."""
    assert p.grad is not None
    return p.grad if p.grad.stride() == p.stride() else torch.empty_like(p).copy_(p.grad)
