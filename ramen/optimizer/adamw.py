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
        for members in kinds.values():
            self._step(members, [_as_it_lies(p) for p in members], group)

    def _step(self, params: list[Tensor], gradients: list[Tensor], group: Group) -> None:
        firsts, seconds, steps = ([self.state[p][name] for p in params] for name in (FIRST, SECOND, STEP))
        numbers = {key: group[key] for key in ("lr", "beta1", "beta2", "eps")}
        decay = group["weight_decay"]
        if group["cautious"] and decay:
            cautious_adamw(params, gradients, firsts, seconds, steps, decay=decay, **numbers)
        else:
            more = dict(fused=True, amsgrad=False, maximize=False, weight_decay=decay)
            adamw(params, gradients, firsts, seconds, [], steps, **more, **numbers)


def _as_it_lies(p: Tensor) -> Tensor:
    """The gradient, in memory as its parameter: torch's fused kernel takes that for granted, and does not look."""
    assert p.grad is not None
    return p.grad if p.grad.stride() == p.stride() else torch.empty_like(p).copy_(p.grad)
