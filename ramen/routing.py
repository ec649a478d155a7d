"""Parameter -> role -> optimizer group, with the proof that every trainable parameter is in exactly one group.

A role is declared where a parameter is born (ramen.ops.parameter) or derived: `matrix` with two axes or more, else `scalar`.
`conf/routing` sends each role to `optimizer`, the method under comparison, or to `auxiliary`, the same for all methods.
"""

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import nn
from typing_extensions import TypedDict

from ramen.config import schedules, without_schedules
from ramen.errors import ConfigError
from ramen.optimizer.foreign import Foreign
from ramen.optimizer.recorded import Recordable, Recorded, Replay, cuda_graph
from ramen.registry import factory

log = logging.getLogger("ramen")
To = Literal["optimizer", "auxiliary"]


class Route(TypedDict, closed=True):
    """Where a role goes, and what its learning rate and weight decay are multiplied by."""

    to: To
    lr_scale: float
    wd_scale: float


@dataclass(kw_only=True)
class Routing:
    """The route of each role."""

    matrix: Route
    embedding: Route
    head: Route
    value_embedding: Route
    gate: Route
    scalar: Route

    def __post_init__(self) -> None:
        for role, route in vars(self).items():
            for key in ("lr_scale", "wd_scale"):
                if route[key] < 0:
                    raise ValueError(f"{role}.{key} must be >= 0, got {route[key]}")


def role(parameter: nn.Parameter) -> str:
    """The declared role, or matrix / scalar by the number of axes."""
    return getattr(parameter, "role", "matrix" if parameter.ndim >= 2 else "scalar")


@dataclass(frozen=True)
class Group:
    """The parameters of one role: what the start-up table shows and one optimizer group trains."""

    role: str
    to: To
    names: tuple[str, ...]
    parameters: tuple[nn.Parameter, ...]
    lr: float
    weight_decay: float

    @property
    def elements(self) -> int:
        return sum(p.numel() for p in self.parameters)


def route(
    model: nn.Module, routing: Routing, optimizer: Mapping[str, Any], auxiliary: Mapping[str, Any]
) -> list[Group]:
    """One group a role that the model has. ConfigError names a role without a route and a matrix optimizer fed vectors."""
    by_role: dict[str, list[tuple[str, nn.Parameter]]] = {}
    for name, value in model.named_parameters():
        if value.requires_grad:
            by_role.setdefault(role(value), []).append((name, value))
    routes: dict[str, Route] = vars(routing)
    unknown = [
        f"routing.{r}: no route for {', '.join(n for n, _ in held)}" for r, held in by_role.items() if r not in routes
    ]
    if unknown:
        raise ConfigError(*unknown)
    groups = []
    for r, held in by_role.items():
        where = routes[r]
        node = optimizer if where["to"] == "optimizer" else auxiliary
        wrong = {key: node[key] for key in ("lr", "weight_decay") if type(node.get(key, 0.0)) not in (int, float)}
        if wrong:  # a foreign optimizer has no annotations that would have told
            raise ConfigError(
                *(f"{where['to']}.{key}: must be a number, got {value!r}" for key, value in wrong.items())
            )
        groups.append(
            Group(
                role=r,
                to=where["to"],
                names=tuple(name for name, _ in held),
                parameters=tuple(value for _, value in held),
                lr=node.get("lr", 0.0) * where["lr_scale"],
                weight_decay=node.get("weight_decay", 0.0) * where["wd_scale"],
            )
        )
    prove_complete(model, groups)
    return groups


def prove_complete(model: nn.Module, groups: list[Group]) -> None:
    """ConfigError unless every trainable parameter is in exactly one group."""
    held = Counter(id(p) for group in groups for p in group.parameters)
    wrong = [
        f"{name} (in {held[id(p)]} groups)"
        for name, p in model.named_parameters()
        if p.requires_grad and held[id(p)] != 1
    ]
    if wrong:
        raise ConfigError(
            f"routing: every trainable parameter must be in exactly one optimizer group, got {', '.join(wrong)}"
        )


@dataclass(frozen=True)
class _Scheduled:
    """A hyperparameter of a group. The group is named by its index: loading a state replaces the dict itself."""

    owner: str
    group: int
    key: str
    base: float
    curve: Callable[[float], float] | None  # None: the learning rate's, given each step


class Optimizers:
    """The optimizers of a run, stepped as one, and the hyperparameters that follow a schedule.

    On a device other than the CPU those are tensors there, where a method can take them (its `tensors`), filled by one copy a step.
    """

    def __init__(
        self, groups: list[Group], optimizer: Mapping[str, Any], auxiliary: Mapping[str, Any], allow: list[str]
    ):
        self.by_name: dict[str, torch.optim.Optimizer] = {}
        self._scheduled: list[_Scheduled] = []
        self._numbers: list[float] = []  # what is scheduled, as of now
        self._tensor: torch.Tensor | None = None  # the same on the device
        self._steps: dict[str, Callable[[], object]] = {}
        for name, node in (("optimizer", optimizer), ("auxiliary", auxiliary)):
            mine = [group for group in groups if group.to == name]
            if mine:
                self.by_name[name] = self._build(name, node, mine, allow)
                self._steps[name] = self.by_name[name].step
        device = groups[0].parameters[0].device
        if device.type != "cpu":
            self.place(device)

    def place(self, device: torch.device) -> None:
        """Keep scheduled hyperparameters on this device."""
        self._tensor = torch.zeros(len(self._scheduled), device=device)

    def record(self, record: Callable[..., Replay] = cuda_graph) -> None:
        """Replay the launches of steps from now on, of each optimizer that tells them from what Python does."""
        for name, built in self.by_name.items():
            if isinstance(built, Recordable):
                self._steps[name] = Recorded(built, partial(self._on_host, name), record).step
            else:
                log.warning("trainer.cuda_graphs: %s's step is launched as it is: it is not ramen's own", name)

    def _on_host(self, name: str) -> tuple[float, ...]:
        """The scheduled hyperparameters of that optimizer that are numbers, as of now."""
        now, tensors = zip(self._scheduled, self._numbers, strict=True), getattr(self.by_name[name], "tensors", ())
        return tuple(number for s, number in now if s.owner == name and s.key not in tensors)

    def _build(self, name: str, node: Mapping[str, Any], mine: list[Group], allow: list[str]) -> torch.optim.Optimizer:
        params = []
        for group in mine:
            own = {"lr": group.lr, "weight_decay": group.weight_decay}
            params.append({"params": list(group.parameters), **{key: own[key] for key in own if key in node}})
        try:
            built = make_optimizer(node, params, allow)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{name}: {error}") from error
        curves = {key: factory(curve, allow) for key, curve in schedules(node).items()}
        for index, made in enumerate(built.param_groups):
            if "lr" in made:
                self._scheduled.append(_Scheduled(name, index, "lr", float(made["lr"]), None))
            for key, curve in curves.items():
                if key not in made:
                    raise ConfigError(f"{name}.{key}_schedule: {node['_target_']} has no hyperparameter {key}")
                if not isinstance(made[key], int | float) or isinstance(made[key], bool):
                    raise ConfigError(f"{name}.{key}_schedule: only a number can follow a schedule, got {made[key]!r}")
                self._scheduled.append(_Scheduled(name, index, key, float(made[key]), curve))
        return built

    def schedule(self, progress: float, lr_multiplier: float) -> dict[str, float]:
        """Set what follows a schedule for this step; return the values of the first group of each optimizer, by name."""
        told = {}
        self._numbers = [s.base * (lr_multiplier if s.curve is None else s.curve(progress)) for s in self._scheduled]
        if self._tensor is not None:
            pinned = self._tensor.is_cuda  # from where a copy does not make the loop wait
            self._tensor.copy_(torch.tensor(self._numbers, pin_memory=pinned), non_blocking=True)
        for index, (s, number) in enumerate(zip(self._scheduled, self._numbers, strict=True)):
            built = self.by_name[s.owner]
            on_device = self._tensor is not None and s.key in getattr(built, "tensors", ())
            built.param_groups[s.group][s.key] = self._tensor[index] if on_device else number  # type: ignore[index]
            if s.group == 0:
                told[s.key if s.owner == "optimizer" else f"{s.owner}_{s.key}"] = number
        return told

    def step(self) -> None:
        for step in self._steps.values():
            step()

    def copy_state(self, source: torch.Tensor, target: torch.Tensor) -> None:
        """Give `target` a copy of the state that `source` has in the optimizer of both."""
        for built in self.by_name.values():
            if source in built.state:
                state = built.state[source].items()
                built.state[target] = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in state}

    def state_dict(self) -> dict[str, Any]:
        state = {name: built.state_dict() for name, built in self.by_name.items()}
        for s, number in zip(self._scheduled, self._numbers, strict=False):  # there are none before the first step
            state[s.owner]["param_groups"][s.group][s.key] = number
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, built in self.by_name.items():
            built.load_state_dict(state[name])


def make_optimizer(node: Mapping[str, Any], params: list[dict[str, Any]], allow: list[str]) -> torch.optim.Optimizer:
    """An optimizer for groups of parameters; one that is not ramen's own sees each matrix as a parameter of its own."""
    make = factory(without_schedules(node), allow)
    built = make(params) if str(node["_target_"]).startswith("ramen.") else Foreign(params, make)
    if not isinstance(built, torch.optim.Optimizer):
        raise TypeError(f"{node['_target_']} is not a torch.optim.Optimizer")
    return built
