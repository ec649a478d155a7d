"""AdamW, with plain or cautious weight decay: torch's fused kernel.

Sources: Loshchilov and Hutter 2017, arXiv 1711.05101; cautious decay: Chen et al. 2025, arXiv 2510.12402 (decay only where the
step and the weight have the same sign).
Cost: about 12 m n FLOPs, bound by memory: 7 m n numbers, where a kernel serves (ramen.ops.adamw) also with cautious decay.
State: 2 m n, in the parameter's type.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from ramen.ops.adamw import fused_adamw, warm
from ramen.ops.checks import check_at_least, check_within


class AdamW(torch.optim.AdamW):
    """torch.optim.AdamW(fused=True); when cautious, the decay is masked by the sign of the step."""

    tensors = frozenset({"lr"})

    def __init__(
        self, params: Any, *, lr: float, beta1: float, beta2: float, eps: float, weight_decay: float, cautious: bool
    ):
        check_within(0, 1, beta1=beta1, beta2=beta2)
        check_at_least(0, lr=lr, eps=eps, weight_decay=weight_decay)
        super().__init__(params, lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=weight_decay, fused=True)
        for group in self.param_groups:
            group.setdefault("cautious", cautious)
            group["capturable"] = all(p.is_cuda for p in group["params"])  # its step may be recorded ...
            if group["cautious"] and group["weight_decay"]:
                warm(group["params"][0])
        self._warned_capturable_if_run_uncaptured = True  # ... and need not be, which torch would warn of

    def begin(self) -> None:
        """Steps differ in nothing but their gradients."""

    def launch(self) -> None:
        """The whole step; torch counts on the device."""
        self.step()

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        groups, decays = self.param_groups, [group["weight_decay"] for group in self.param_groups]
        try:
            with _aligned(groups):
                for group in groups:
                    if group["cautious"] and group["weight_decay"] and not self._step_at_once(group):
                        self._decay_cautiously(group)
                        group["weight_decay"] = 0.0  # done; the fused kernel shall not decay again
                # The others, whose decay is none or done.
                self.param_groups = [g for g in groups if not (g["cautious"] and g["weight_decay"])]
                super().step()
        finally:
            self.param_groups = groups
            for group, decay in zip(groups, decays, strict=True):
                group["weight_decay"] = decay
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(deepcopy(state_dict))  # torch would share memory with the dict

    def _step_at_once(self, group: dict[str, Any]) -> bool:
        """The step of a group with cautious decay in one pass over memory; False, and nothing done, where no kernel serves."""
        params = [p for p in group["params"] if p.grad is not None]
        gradients: Any = [p.grad for p in params]
        step = fused_adamw(params, gradients)
        if step is None:
            return False
        for p in params:
            if not self.state[p]:  # as torch's own step has it
                moments = {name: torch.zeros_like(p) for name in ("exp_avg", "exp_avg_sq")}
                self.state[p] = {"step": torch.zeros((), device=p.device)} | moments
        state = [[self.state[p][name] for p in params] for name in ("exp_avg", "exp_avg_sq", "step")]
        (beta1, beta2), decay = group["betas"], group["weight_decay"]
        step(params, gradients, *state, lr=group["lr"], beta1=beta1, beta2=beta2, eps=group["eps"], decay=decay)
        return True

    def _decay_cautiously(self, group: dict[str, Any]) -> None:
        """W <- W - lr wd 1[step W > 0] W before the step. The step's sign is the first moment's, which does not depend on W."""
        params: list[Tensor] = [p for p in group["params"] if p.grad is not None]
        if not params:
            return
        gradients = [p.grad for p in params if p.grad is not None]
        first = [self.state[p]["exp_avg"] if "exp_avg" in self.state[p] else torch.zeros_like(p) for p in params]
        agree = torch._foreach_lerp(first, gradients, 1 - group["betas"][0])
        torch._foreach_sign_(agree)  # first, lest the product be too small for a number
        torch._foreach_mul_(agree, params)
        torch._foreach_sign_(agree)
        torch._foreach_clamp_min_(agree, 0.0)  # 1 where they agree, else 0
        rate = group["lr"] * group["weight_decay"]
        if isinstance(rate, Tensor):
            torch._foreach_mul_(agree, rate)
            rate = 1.0
        torch._foreach_addcmul_(params, agree, params, value=-rate)


@contextmanager
def _aligned(groups: list[dict[str, Any]]) -> Iterator[None]:
    """Within, gradients lie in memory as their parameters do: torch's fused kernel takes it for granted, and does not look."""
    given = [p for group in groups for p in group["params"] if p.grad is not None]
    mismatched_strides = {p: p.grad for p in given if p.grad.stride() != p.stride()}
    try:
        for p, gradient in mismatched_strides.items():
            p.grad = torch.empty_like(p).copy_(gradient)
        yield
    finally:
        for p, gradient in mismatched_strides.items():
            p.grad = gradient
