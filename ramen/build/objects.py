"""From sections of a config to objects: used by a run, by its dry run and by whoever loads a run later.

A component's ValueError (a value out of its range) becomes a ConfigError that names its section.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ramen.build.param_groups import route
from ramen.config.check import schedules, without_schedules
from ramen.config.kinds import KINDS, PARTS
from ramen.config.registry import build, factory
from ramen.errors import ConfigError
from ramen.nn.contracts import ComponentFactories
from ramen.nn.gpt import DataSpec, Windows
from ramen.ops.attention import choose
from ramen.optimizer.external import ExternalOptimizer
from ramen.optimizer.optimizers import Optimizers, ParamGroup
from ramen.training.phases import POINTS

WINDOWS = ("long_window", "short_window")
MOST_TOKENS = 2**30  # of a window: masks count in int32, and paired heads twice
CURVES = KINDS["schedule"].sections


def build_section(config: Mapping[str, Any], name: str, *runtime: Any) -> Any:
    """The object of one section of the config, given its run-time arguments."""
    with config_errors(name):
        return build(config[name], *runtime, allow=config["allow_targets"])


@contextmanager
def config_errors(section: str) -> Iterator[None]:
    """Turn a ValueError into a ConfigError of that section, and a size that torch cannot count as well."""
    try:
        yield
    except (OverflowError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, OverflowError) or "overflow" in str(error).lower():
            first = str(error).partition("\n")[0]
            raise ConfigError(f"{section}: makes a tensor of more elements than can be counted, got {first}") from error
        if isinstance(error, ValueError):
            raise ConfigError(f"{section}.{error}") from error
        raise


def build_model(config: Mapping[str, Any], text: DataSpec) -> nn.Module:
    """The model of a config, with undefined weights (ramen.nn.parameter.initialise fills them)."""
    parts = {
        kind: config_errors(kind)(factory(config[kind], config["allow_targets"])) for kind in PARTS
    }  # as by a decorator
    return build_section(config, "model", text, ComponentFactories(parts))


def build_groups(config: Mapping[str, Any], model: nn.Module) -> list[ParamGroup]:
    """The optimizer groups of a model under the config's routing."""
    return route(model, build_section(config, "routing"), config["optimizer"], config["auxiliary"])


def build_optimizer(node: Mapping[str, Any], params: list[dict[str, Any]], allow: list[str]) -> torch.optim.Optimizer:
    """An optimizer for groups of parameters; one that is not ramen's own sees each matrix as a parameter of its own."""
    make = factory(without_schedules(node), allow)
    built = make(params) if str(node["_target_"]).startswith("ramen.") else ExternalOptimizer(params, make)
    if not isinstance(built, torch.optim.Optimizer):
        raise TypeError(f"{node['_target_']} is not a torch.optim.Optimizer")
    return built


def build_optimizers(config: Mapping[str, Any], groups: list[ParamGroup]) -> Optimizers:
    """The optimizers of a run, with the schedules of their hyperparameters."""
    by_name, curves = {}, {}
    for name in ("optimizer", "auxiliary"):
        node, owned = config[name], [group for group in groups if group.to == name]
        if not owned:
            continue
        params = []
        for group in owned:
            scaled = {"lr": group.lr, "weight_decay": group.weight_decay}
            params.append({"params": list(group.parameters), **{key: scaled[key] for key in scaled if key in node}})
        try:
            by_name[name] = build_optimizer(node, params, config["allow_targets"])
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{name}: {error}") from error
        curves[name] = {key: factory(curve, config["allow_targets"]) for key, curve in schedules(node).items()}
    try:
        return Optimizers(by_name, curves)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def build_curve(config: Mapping[str, Any], name: str) -> Callable[[float], float]:
    """A schedule section as a function of progress, tried at both ends and in the middle."""
    return curve_of(config[name], name, config["allow_targets"])


def curve_of(node: Mapping[str, Any], name: str, allow: list[str]) -> Callable[[float], float]:
    """A schedule node as a function of progress, tried at both ends and in the middle."""
    curve = factory(node, allow)
    with config_errors(name):
        for progress in (0.0, 0.5, 1.0):
            curve(progress)
    return curve


def build_windows(config: Mapping[str, Any]) -> Callable[[float], Windows]:
    """What long and short attention layers see, in tokens, as a function of progress."""
    curves = {name: build_curve(config, f"{name}_schedule") for name in WINDOWS}
    bases = {name: config["attention"].get(f"{name}_tokens") for name in WINDOWS}
    for name, curve in curves.items():
        values, base = set(map(curve, POINTS)), bases[name]
        if base is None and values != {1.0}:
            raise ConfigError(f"{name}_schedule: needs attention.{name}_tokens, got null")
        if base is not None and not 1 <= round(min(values) * base) <= round(max(values) * base) <= MOST_TOKENS:
            raise ConfigError(
                f"{name}_schedule: takes attention.{name}_tokens = {base} below one token or above {MOST_TOKENS:,}, "
                f"got {min(values)} to {max(values)}"
            )

    def at(progress: float) -> Windows:
        long, short = (None if base is None else round(base * curves[name](progress)) for name, base in bases.items())
        return long, short

    return at


def build_mtp_share(config: Mapping[str, Any]) -> Callable[[float], float]:
    """How much of the configured losses on tokens after the next one counts, as a function of progress."""
    curve = build_curve(config, "mtp_schedule")
    if not config["model"]["mtp_weights"] and set(map(curve, POINTS)) != {1.0}:
        raise ConfigError("mtp_schedule: needs model.mtp_weights, got []")
    return curve


def choose_attention_backend(
    config: Mapping[str, Any], device: torch.device, precision: torch.dtype, compiled: bool
) -> str:
    """What attention runs on, in one word; ConfigError when what is asked for cannot serve here."""
    asked, width = config["attention"].get("backend", "auto"), config["model"]["dim"] // config["model"]["heads"]
    with config_errors("attention"):
        return choose(asked, device, precision, width, compiled)
