"""The optimizers of a run: their groups of parameters, their steps, and the hyperparameters that follow a schedule."""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from ramen.optimizer.base import Optimizer
from ramen.optimizer.external import ExternalOptimizer, SwitchesWeights

log = logging.getLogger("ramen")
Curve = Callable[[float], float]  # progress -> multiplier
Owner = Literal["optimizer", "auxiliary"]


@dataclass(frozen=True)
class ParamGroup:
    """The parameters of one role: what the start-up table shows and one optimizer group trains."""

    role: str
    to: Owner
    names: tuple[str, ...]
    parameters: tuple[nn.Parameter, ...]
    lr: float
    weight_decay: float

    @property
    def elements(self) -> int:
        return sum(p.numel() for p in self.parameters)


@dataclass(frozen=True)
class Scheduled:
    """A hyperparameter of a group. The group is named by its index: loading a state replaces the dict itself."""

    owner: str
    group: int
    key: str
    base: float
    curve: Curve | None  # None: the learning rate's, given each step
    may_be_tensor: bool  # the method takes a tensor on the device in place of a number


class Optimizers:
    """Several optimizers stepped as one; on CUDA, scheduled values that a method takes as `tensors` are set by one copy a step."""

    def __init__(self, by_name: Mapping[str, Optimizer | ExternalOptimizer], curves: dict[str, dict[str, Curve]]):
        """`curves`: of each optimizer's hyperparameters that follow a schedule. ValueError where that cannot be."""
        self.by_name = by_name
        external = [each for each in by_name.values() if isinstance(each, ExternalOptimizer)]
        self.switching = [each for each in external if isinstance(each.inner, SwitchesWeights)]
        self.scheduled = [s for name in by_name for s in _scheduled(name, by_name[name], curves.get(name, {}))]
        self._numbers: list[float] = []  # present values of what is scheduled
        self._tensor: torch.Tensor | None = None  # the same on the device
        self._steps: dict[str, Callable[[], object]] = {name: built.step for name, built in by_name.items()}
        device = next(iter(by_name.values())).param_groups[0]["params"][0].device
        if device.type != "cpu":
            self.place(device)

    def place(self, device: torch.device) -> None:
        """Keep scheduled hyperparameters on this device."""
        self._tensor = torch.zeros(len(self.scheduled), device=device)

    def use_cuda_graphs(self, graphed: Callable[[Optimizer], Callable[[], object]]) -> None:
        """Step by `graphed(optimizer)` from now on, each optimizer whose launches are apart from what Python does."""
        for name, optimizer in self.by_name.items():
            if isinstance(optimizer, Optimizer):
                self._steps[name] = graphed(optimizer)
            else:
                log.warning("trainer.cuda_graphs: %s's step is launched as it is: it is not ramen's own", name)

    def schedule(self, progress: float, lr_multiplier: float) -> dict[str, float]:
        """Set what follows a schedule for this step; return the values of the first group of each optimizer, by name."""
        values = {}
        self._numbers = [s.base * (lr_multiplier if s.curve is None else s.curve(progress)) for s in self.scheduled]
        if self._tensor is not None:
            pinned = self._tensor.is_cuda  # from where a copy does not make the loop wait
            self._tensor.copy_(torch.tensor(self._numbers, pin_memory=pinned), non_blocking=True)
        for index, (s, number) in enumerate(zip(self.scheduled, self._numbers, strict=True)):
            value = self._tensor[index] if s.may_be_tensor and self._tensor is not None else number
            self.by_name[s.owner].param_groups[s.group][s.key] = value
            if s.group == 0:
                values[s.key if s.owner == "optimizer" else f"{s.owner}_{s.key}"] = number
        return values

    def step(self) -> None:
        for step in self._steps.values():
            step()

    def copy_state(self, source: torch.Tensor, target: torch.Tensor) -> None:
        """Give `target` a copy of the state that `source` has in the optimizer of both."""
        for built in self.by_name.values():
            if source in built.state:
                built.state[target] = {key: value.clone() for key, value in built.state[source].items()}

    def state_dict(self) -> dict[str, Any]:
        state = {name: built.state_dict() for name, built in self.by_name.items()}
        for s, number in zip(self.scheduled, self._numbers, strict=False):  # there are none before the first step
            state[s.owner]["param_groups"][s.group][s.key] = number
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, built in self.by_name.items():
            built.load_state_dict(state[name])


def _scheduled(name: str, built: Optimizer | ExternalOptimizer, curves: dict[str, Curve]) -> Iterator[Scheduled]:
    tensors = built.tensors if isinstance(built, Optimizer) else ()
    for index, group in enumerate(built.param_groups):
        if "lr" in group:
            yield Scheduled(name, index, "lr", float(group["lr"]), None, "lr" in tensors)
        for key, curve in curves.items():
            if key not in group:
                raise ValueError(f"{name}.{key}_schedule: {type(built).__name__} has no hyperparameter {key}")
            if not isinstance(group[key], int | float) or isinstance(group[key], bool):
                raise ValueError(f"{name}.{key}_schedule: only a number can follow a schedule, got {group[key]!r}")
            yield Scheduled(name, index, key, float(group[key]), curve, key in tensors)
