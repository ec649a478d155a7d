"""A component for a training loop of one's own: an option's yaml, built. Doors: ramen.optimizer, ramen.component."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from ramen.build.objects import build_optimizer
from ramen.config.defaults import option_node
from ramen.config.kinds import KINDS
from ramen.config.registry import OPTIMIZERS, factory
from ramen.errors import ConfigError
from ramen.nn.contracts import RestoresWeights
from ramen.nn.parameter import initialise


def build_component(kind: str, name: str, runtime: tuple[Any, ...], changes: Mapping[str, Any]) -> Any:
    """An option of a kind with `changes` to its yaml's values; a schedule stays a function of progress."""
    node = option_node(kind, name, changes)
    if kind == "schedule" and not runtime:
        return factory(node)
    if len(runtime) != len(KINDS[kind].runtime):
        expected = ", ".join(KINDS[kind].runtime) or "nothing"
        raise ConfigError(f"{kind}={name}: takes {expected} by position, got {len(runtime)} arguments")
    if kind in OPTIMIZERS:
        return build_optimizer(node, list(runtime[0]), [])
    build: Callable[..., Any] = factory(node)
    component = build(*runtime)
    if isinstance(component, nn.Module):
        with torch.no_grad():
            initialise(component, int(torch.randint(2**62, ())))
            for module in component.modules():
                if isinstance(module, RestoresWeights):
                    module.after_step()
    return component
