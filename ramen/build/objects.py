"""From sections of a config to objects: used by a run, by its dry run and by whoever loads a run later.

A component's ValueError (a value out of its range) becomes a ConfigError that names its section.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ramen import kernels
from ramen.build.param_groups import route
from ramen.config.check import schedules, without_schedules
from ramen.config.kinds import PARTS
from ramen.config.registry import build, factory
from ramen.errors import ConfigError
from ramen.kernels.attention import choose
from ramen.nn.contracts import ComponentFactories
from ramen.nn.gpt import DataSpec, Windows
from ramen.optimizer.base import Optimizer
from ramen.optimizer.external import ExternalOptimizer
from ramen.optimizer.optimizers import Curve, Optimizers, ParamGroup
from ramen.schedule.base import turning_points
from ramen.training.phases import RunSchedules

MOST_TOKENS = 2**30  # of a window: masks count in int32, and paired heads twice


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
    kernels.register()
    # A context manager made by contextlib decorates, too.
    parts = {kind: config_errors(kind)(factory(config[kind], config["allow_targets"])) for kind in PARTS}
    return build_section(config, "model", text, ComponentFactories(parts))


def build_groups(config: Mapping[str, Any], model: nn.Module) -> list[ParamGroup]:
    """The optimizer groups of a model under the config's routing."""
    return route(model, build_section(config, "routing"), config["optimizer"], config["auxiliary"])


def build_optimizer(node: Mapping[str, Any], params: list[Any], allow: list[str]) -> Optimizer | ExternalOptimizer:
    """An optimizer for groups of parameters; one that is not ramen's own sees each matrix as a parameter of its own."""
    kernels.register()
    make = factory(without_schedules(node), allow)
    return make(params) if str(node["_target_"]).startswith("ramen.") else ExternalOptimizer(params, make)


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


def build_schedule(config: Mapping[str, Any], name: str) -> Curve:
    """A schedule section as a function of progress, which has been tried where it turns."""
    curve = factory(config[name], config["allow_targets"])
    with config_errors(name):
        for point in turning_points(curve):
            curve(point)
    return curve


def build_schedules(config: Mapping[str, Any]) -> RunSchedules:
    """The schedules of a run. ConfigError for one that takes a value that cannot be."""
    lr, batch, mtp_share = (build_schedule(config, name) for name in ("schedule", "batch_schedule", "mtp_schedule"))
    if not config["model"]["mtp_weights"] and {*map(mtp_share, turning_points(mtp_share))} != {1.0}:
        raise ConfigError("mtp_schedule: needs model.mtp_weights, got []")
    kinds = [_window(config, name) for name in ("long_window", "short_window")]

    def windows(progress: float) -> Windows:
        long, short = (None if tokens is None else round(tokens * curve(progress)) for curve, tokens in kinds)
        return long, short

    points = turning_points(batch, *(curve for curve, _ in kinds))
    for point in points:
        long, short = windows(point)
        if long and short and short > long:
            raise ConfigError(f"short_window_schedule: takes the short window above the long one, got {short} > {long}")
    return RunSchedules(lr, batch, windows, mtp_share, points)


def _window(config: Mapping[str, Any], name: str) -> tuple[Curve, int | None]:
    """The schedule of a kind of window, and the tokens it multiplies; None: layers see all of a document."""
    curve, tokens = build_schedule(config, f"{name}_schedule"), config["attention"].get(f"{name}_tokens")
    values = [*map(curve, turning_points(curve))]
    if tokens is None and {*values} != {1.0}:
        raise ConfigError(f"{name}_schedule: needs attention.{name}_tokens, got null")
    if tokens is not None and not 1 <= round(min(values) * tokens) <= round(max(values) * tokens) <= MOST_TOKENS:
        raise ConfigError(
            f"{name}_schedule: takes attention.{name}_tokens = {tokens} below one token or above {MOST_TOKENS:,}, "
            f"got {min(values)} to {max(values)}"
        )
    return curve, tokens


def choose_attention_backend(
    config: Mapping[str, Any], device: torch.device, precision: torch.dtype, compiled: bool
) -> str:
    """The backend that attention will run on. ConfigError if the one asked for cannot serve this device."""
    kernels.register()
    model, backend = config["model"], config["attention"].get("backend", "auto")
    with config_errors("attention"):
        return choose(backend, device, precision, model["dim"] // max(1, model["heads"]), compiled)
