"""Lets an optimizer from another package step on banks of matrices: to it, every matrix is a parameter of its own.

Such an optimizer (torch.optim.Muon, say) expects matrices of two axes and may write into gradients. Each matrix of a parameter
(N, m, n) becomes a leaf that shares its memory and, at each step, is given a copy of its gradient. What the optimizer writes in
place is the parameter's new value.
Cost: the method's, one matrix after the other, and a copy of the gradient. State: the method's.
"""

from collections.abc import Callable
from copy import deepcopy
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

STEP = "step_of_external"  # number of the step; kept in a group, and so in the state


@runtime_checkable
class SwitchesWeights(Protocol):
    """An optimizer that evaluates other weights than it trains, such as ScheduleFree and SPlus."""

    def eval(self) -> object: ...
    def train(self) -> object: ...


class ExternalOptimizer(torch.optim.Optimizer):
    """Wraps `make(groups)`, an optimizer of two-axis matrices, for parameters with a leading axis."""

    inner: Any = None  # the optimizer, once `make` was called

    def __init__(self, params: Any, make: Callable[[list[dict[str, Any]]], torch.optim.Optimizer]):
        self._leaves: dict[Tensor, list[nn.Parameter]] = {}
        self._waiting: list[dict[str, Any]] = []  # groups of leaves, until there is an inner optimizer
        super().__init__(params, {})
        try:
            inner = make(self._waiting)
        except Exception as error:  # packages have exceptions of their own for what is out of range
            raise ValueError(str(error)) from error
        if not isinstance(inner, torch.optim.Optimizer):
            raise TypeError(f"{type(inner).__name__} is not a torch.optim.Optimizer")
        self.inner = inner
        self._pull()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        if wrong := [tuple(p.shape) for p in param_group["params"] if p.ndim > 3]:
            self.param_groups.pop()
            raise ValueError(f"allowed are matrices and banks of them (N, m, n), got a parameter of shape {wrong[0]}")
        self._leaves |= {p: [nn.Parameter(m) for m in _matrices(p.detach())] for p in param_group["params"]}
        group = {**param_group, "params": [leaf for p in param_group["params"] for leaf in self._leaves[p]]}
        if self.inner is None:
            self._waiting.append(group)
        else:
            self.inner.add_param_group(group)
            self._pull()

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = None if closure is None else torch.enable_grad()(closure)()
        for outer, inner in zip(self.param_groups, self.inner.param_groups, strict=True):  # what a schedule has set
            inner.update({key: value for key, value in outer.items() if key != "params"})
        for p, leaves in self._leaves.items():
            gradients = [None] * len(leaves) if p.grad is None else _matrices(p.grad.clone())
            for leaf, matrix, gradient in zip(leaves, _matrices(p.detach()), gradients, strict=True):
                leaf.data, leaf.grad = matrix, gradient  # anew each step: the parameter's memory may be another by now
        first = self.inner.param_groups[0]
        first[STEP] = first.get(STEP, -1) + 1
        with torch.random.fork_rng():  # a method's own draws are a function of the step, and move no other stream
            torch.manual_seed(first[STEP])
            self.inner.step()
        for leaves in self._leaves.values():
            for leaf in leaves:
                leaf.grad = None
        self._pull()
        return loss

    def eval(self) -> None:
        """Put the weights to evaluate into the parameters, if the method is a SwitchesWeights."""
        self.inner.eval()
        self._pull()

    def train(self) -> None:
        """Put the weights to train back into them, but for rounding."""
        self.inner.train()
        self._pull()

    def state_dict(self) -> dict[str, Any]:
        return self.inner.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.inner.load_state_dict(deepcopy(state_dict))  # torch would share memory with the dict
        self._pull()

    def __getstate__(self) -> dict[str, Any]:
        # The inner optimizer with all of its attributes: torch's own copy leaves out what packages put there.
        return super().__getstate__() | {"_leaves": self._leaves, "inner": (type(self.inner), vars(self.inner))}

    def __setstate__(self, state: dict[str, Any]) -> None:
        kind, attributes = state.pop("inner")
        super().__setstate__(state)
        self.inner = kind.__new__(kind)
        self.inner.__setstate__(attributes)

    def _pull(self) -> None:
        """Show the inner optimizer's groups, with what it counts there itself, and its state as this one's."""
        for outer, inner in zip(self.param_groups, self.inner.param_groups, strict=True):
            outer.update({key: value for key, value in inner.items() if key != "params"})
        self.state = self.inner.state


def _matrices(tensor: Tensor) -> list[Tensor]:
    """Views of the matrices of a bank (N, m, n), or the tensor itself."""
    return list(tensor.unbind()) if tensor.ndim > 2 else [tensor]
