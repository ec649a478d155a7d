"""Parameter -> role -> optimizer group, with the proof that every trainable parameter is in exactly one group.

A role is declared where a parameter is born (ramen.nn.parameter) or derived: `matrix` with two axes or more, else `scalar`.
`conf/routing` sends each role to `optimizer`, the method under comparison, or to `auxiliary`, the same for all methods.
"""

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from typing_extensions import TypedDict

from ramen.errors import ConfigError
from ramen.nn.parameter import named_roles
from ramen.optimizer.optimizers import Owner, ParamGroup

log = logging.getLogger("ramen")


class Route(TypedDict, closed=True):
    """Where a role goes, and what its learning rate and weight decay are multiplied by."""

    to: Owner
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
        for name, route in vars(self).items():
            for key in ("lr_scale", "wd_scale"):
                if route[key] < 0:
                    raise ValueError(f"{name}.{key} must be >= 0, got {route[key]}")


def route(
    model: nn.Module, routing: Routing, optimizer: Mapping[str, Any], auxiliary: Mapping[str, Any]
) -> list[ParamGroup]:
    """One group a role that the model has. ConfigError names a role without a route and a matrix optimizer fed vectors."""
    by_role: dict[str, list[tuple[str, nn.Parameter]]] = {}
    for name, value, role in named_roles(model):
        if value.requires_grad:
            by_role.setdefault(role, []).append((name, value))
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
            ParamGroup(
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


def prove_complete(model: nn.Module, groups: list[ParamGroup]) -> None:
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
