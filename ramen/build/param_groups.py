"""Parameter -> role -> optimizer group, with the proof that every trainable parameter is in exactly one group.

A role is declared where a parameter is born (ramen.nn.parameter) or derived: `matrix` with two axes or more, else `scalar`.
`conf/routing` sends each role to `optimizer`, the method under comparison, or to `auxiliary`, the same for all methods.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import NonNegativeFloat
from torch import nn
from typing_extensions import TypedDict

from ramen.errors import ConfigError
from ramen.nn.parameter import lr_scale, named_roles
from ramen.optimizer.optimizers import Owner, ParamGroup


class Route(TypedDict, closed=True):
    """The optimizer of a role, and the factors of its learning rate and weight decay."""

    to: Owner
    lr_scale: NonNegativeFloat
    wd_scale: NonNegativeFloat


@dataclass(kw_only=True)
class Routing:
    """The route of each role."""

    matrix: Route
    embedding: Route
    head: Route
    value_embedding: Route
    gate: Route
    scalar: Route


def route(
    model: nn.Module, routing: Routing, optimizer: Mapping[str, Any], auxiliary: Mapping[str, Any]
) -> list[ParamGroup]:
    """One group for each role that the model has, and rate within it. ConfigError names roles without a route."""
    members: dict[tuple[str, float], dict[str, nn.Parameter]] = {}
    for name, parameter, role in named_roles(model):
        if parameter.requires_grad:
            members.setdefault((role, lr_scale(parameter)), {})[name] = parameter
    routes: dict[str, Route] = vars(routing)
    nodes: dict[str, Mapping[str, Any]] = {"optimizer": optimizer, "auxiliary": auxiliary}
    wrong = [f"routing.{role}: no route for {', '.join(of)}" for (role, _), of in members.items() if role not in routes]
    wrong += [  # the constructors of other packages have no annotations that would be checked
        f"{owner}.{key}: must be a number, got {node[key]!r}"
        for owner, node in nodes.items()
        for key in ("lr", "weight_decay")
        if type(node.get(key, 0.0)) not in (int, float)
    ]
    if wrong:
        raise ConfigError(*wrong)
    groups = []
    for (role, scale), parameters in members.items():
        owner = routes[role]["to"]
        lr = nodes[owner].get("lr", 0.0) * routes[role]["lr_scale"] * scale
        weight_decay = nodes[owner].get("weight_decay", 0.0) * routes[role]["wd_scale"]
        groups.append(ParamGroup(role, owner, tuple(parameters), tuple(parameters.values()), lr, weight_decay))
    prove_complete(model, groups)
    return groups


def prove_complete(model: nn.Module, groups: list[ParamGroup]) -> None:
    """ConfigError unless every trainable parameter is in exactly one group."""
    count = Counter(id(p) for group in groups for p in group.parameters)
    trainable = [(name, count[id(p)]) for name, p in model.named_parameters() if p.requires_grad]
    if wrong := [f"{name} (in {groups} groups)" for name, groups in trainable if groups != 1]:
        raise ConfigError(
            f"routing: every trainable parameter must be in exactly one optimizer group, got {', '.join(wrong)}"
        )
