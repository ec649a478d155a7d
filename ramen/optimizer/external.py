"""Lets an optimizer from elsewhere step on banks of matrices: to it, every matrix is a parameter of its own.

A foreign optimizer (torch.optim.Muon, say) expects matrices of two axes and may write into gradients. Each matrix of a parameter
(..., m, n) becomes a leaf that shares its storage and, at each step, is given a copy of its gradient. What the foreign optimizer
writes in place is the parameter's new value.
Cost: the foreign method's, one matrix after the other, and a copy of the gradient. State: the foreign method's.
"""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

STEP = "step_of_foreign"


class Foreign(torch.optim.Optimizer):
    """Wraps `make(groups)`, an optimizer of two-axis matrices, for parameters with leading axes."""

    def __init__(self, params: Any, make: Callable[[list[dict[str, Any]]], torch.optim.Optimizer]):
        groups = [dict(group) for group in params]
        self._leaves: list[tuple[Tensor, list[nn.Parameter]]] = []
        split = []
        for group in groups:
            leaves = []
            for p in group["params"]:
                matrices = p.detach().reshape(-1, *p.shape[-2:]).unbind() if p.ndim > 2 else [p.detach()]
                self._leaves.append((p, [nn.Parameter(matrix) for matrix in matrices]))
                leaves += self._leaves[-1][1]
            split.append({**group, "params": leaves})
        try:
            self.inner = make(split)
        except Exception as error:  # packages have exceptions of their own for what is out of range
            raise ValueError(str(error)) from error
        if not isinstance(self.inner, torch.optim.Optimizer):
            raise TypeError(f"{type(self.inner).__name__} is not a torch.optim.Optimizer")
        super().__init__(groups, {})
        self._pull()

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._push()
        for p, leaves in self._leaves:
            gradients = [None] * len(leaves) if p.grad is None else p.grad.clone().reshape(-1, *p.shape[-2:]).unbind()
            for leaf, gradient in zip(leaves, gradients, strict=True):
                leaf.grad = gradient if gradient is None else gradient.view_as(leaf)
        with torch.random.fork_rng():  # a method's own draws are a function of the step, and move no other stream
            torch.manual_seed(self._count())
            self.inner.step()
        for _, leaves in self._leaves:
            for leaf in leaves:
                leaf.grad = None
        self._pull()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return self.inner.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.inner.load_state_dict(deepcopy(state_dict))  # torch would share memory with the dict
        self._pull()

    def _count(self) -> int:
        """The number of this step; kept in a group, and so in the state."""
        group = self.inner.param_groups[0]
        group[STEP] = group.get(STEP, -1) + 1
        return group[STEP]

    def _push(self) -> None:
        """Tell the inner optimizer what was set here since _pull, by a schedule."""
        for outer, inner in zip(self.param_groups, self.inner.param_groups, strict=True):
            inner.update({key: value for key, value in outer.items() if key != "params"})

    def _pull(self) -> None:
        """Show the inner optimizer's groups, with what it counts there itself, as this one's."""
        for outer, inner in zip(self.param_groups, self.inner.param_groups, strict=True):
            outer.update({key: value for key, value in inner.items() if key != "params"})
