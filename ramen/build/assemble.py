"""From sections of a config to objects: used by a run, by its dry build and by whoever loads a run later.

A component's ValueError (a value out of its range) becomes a ConfigError that names its section.
"""

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ramen.build.flops import flops_per_token
from ramen.build.memory import Sizes, step_memory
from ramen.build.param_groups import build_optimizers, route
from ramen.config.check import schedules
from ramen.config.kinds import PARTS
from ramen.config.registry import build, factory
from ramen.errors import ConfigError
from ramen.nn.contracts import ComponentFactories
from ramen.nn.gpt import DataSpec, Windows
from ramen.ops.attention import choose
from ramen.ops.cross_entropy import sketched_as_on
from ramen.optimizer.external import Foreign
from ramen.optimizer.optimizers import Group, Optimizers
from ramen.training.compilation import forward
from ramen.training.phases import POINTS

WINDOWS = ("long_window", "short_window")
MOST_TOKENS = 2**30  # of a window: masks count in int32, and paired heads twice
CURVES = ("schedule", "batch_schedule", "mtp_schedule", *(f"{name}_schedule" for name in WINDOWS))


def section(config: Mapping[str, Any], name: str, *runtime: Any) -> Any:
    """The object of one section of the config, given its run-time arguments."""
    with _named(name):
        return build(config[name], *runtime, allow=config["allow_targets"])


@contextmanager
def _named(section: str) -> Iterator[None]:
    """A ValueError within becomes a ConfigError of that section, and so does a size that torch cannot count."""
    try:
        yield
    except (OverflowError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, OverflowError) or "overflow" in str(error).lower():
            first = str(error).partition("\n")[0]
            raise ConfigError(f"{section}: makes a tensor of more elements than can be counted, got {first}") from error
        if isinstance(error, ValueError):
            raise ConfigError(f"{section}.{error}") from error
        raise


def model(config: Mapping[str, Any], text: DataSpec) -> nn.Module:
    """The model of a config, with undefined weights (ramen.nn.parameter.initialise fills them)."""
    parts = {kind: _named(kind)(factory(config[kind], config["allow_targets"])) for kind in PARTS}  # as by a decorator
    return section(config, "model", text, ComponentFactories(parts))


def groups(config: Mapping[str, Any], made: nn.Module) -> list[Group]:
    """The optimizer groups of a model under the config's routing."""
    return route(made, section(config, "routing"), config["optimizer"], config["auxiliary"])


def optimizers(config: Mapping[str, Any], made: list[Group]) -> Optimizers:
    """The optimizers of a run."""
    return build_optimizers(made, config["optimizer"], config["auxiliary"], config["allow_targets"])


def curve(config: Mapping[str, Any], name: str) -> Callable[[float], float]:
    """A schedule section as a function of progress, tried at both ends and in the middle."""
    return _curve(config[name], name, config["allow_targets"])


def windows(config: Mapping[str, Any]) -> Callable[[float], Windows]:
    """What long and short attention layers see, in tokens, as a function of progress."""
    curves = {name: curve(config, f"{name}_schedule") for name in WINDOWS}
    bases = {name: config["attention"].get(f"{name}_tokens") for name in WINDOWS}
    for name, made in curves.items():
        values, base = set(map(made, POINTS)), bases[name]
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


def mtp_share(config: Mapping[str, Any]) -> Callable[[float], float]:
    """How much of the configured losses on tokens after the next one counts, as a function of progress."""
    made = curve(config, "mtp_schedule")
    if not config["model"]["mtp_weights"] and set(map(made, POINTS)) != {1.0}:
        raise ConfigError("mtp_schedule: needs model.mtp_weights, got []")
    return made


def attention_backend(config: Mapping[str, Any], device: torch.device, precision: torch.dtype, compiled: bool) -> str:
    """What attention runs on, in one word; ConfigError when what is asked for cannot serve here."""
    asked, width = config["attention"].get("backend", "auto"), config["model"]["dim"] // config["model"]["heads"]
    with _named("attention"):
        return choose(asked, device, precision, width, compiled)


@dataclass(frozen=True)
class Sketch:
    """What is known of a run before anything is allocated."""

    groups: list[Group]  # of fake tensors: names, roles and sizes
    costs: dict[str, Any]


def sketch(
    config: Mapping[str, Any], text: DataSpec, micro_rows: int, precision: torch.dtype, kind: str = "cpu"
) -> Sketch:
    """Build model, routing, optimizers and schedules on fake tensors: every range error shows, and what the run will cost."""
    for name in CURVES:
        curve(config, name)
    way = [*map(windows(config), POINTS)]
    crossed = [f"{short} > {long}" for long, short in way if long and short and short > long]
    if crossed:
        raise ConfigError(f"short_window_schedule: takes the short window above the long one, got {crossed[0]}")
    section(config, "diagnostics")
    mtp_share(config)
    with FakeTensorMode():
        made = model(config, text)
        made.after_step()  # type: ignore[operator]  # parts that cannot keep what they promise of their weights refuse
        routed = groups(config, made)
        _check_stages(made, routed, optimizers(config, routed), way)
        for owner in ("optimizer", "auxiliary"):
            _try_schedules(config, owner, routed)
        elements = sum(p.numel() for p in made.parameters())
        costs = {
            "parameters": elements,
            "parameters_without_embeddings": elements - made.embedding_parameters(),  # type: ignore[operator]
            "flops_per_token": _once(lambda: flops_per_token(made, text.sequence_length), _shapes(config), text),
            "memory": memory(config, text, micro_rows, precision, kind),
        }
    return Sketch(routed, costs)


def memory(
    config: Mapping[str, Any], text: DataSpec, micro_rows: int, precision: torch.dtype, kind: str = "cpu"
) -> Sizes:
    """Bytes at the peak of a step on a kind of device, by what they hold; once for configs that differ in numbers alone."""
    recompute = config["trainer"]["activation_checkpointing"]
    accumulates = config["trainer"]["batch_tokens"] > micro_rows * text.sequence_length

    def simulate() -> Sizes:
        with FakeTensorMode(), sketched_as_on(kind):
            made = model(config, text)
            forward(made, "off", recompute)
            stepped = optimizers(config, groups(config, made))
            return step_memory(made, stepped, micro_rows, text.sequence_length, precision, accumulates=accumulates)

    stepping = _without_floats([config["routing"], config["optimizer"], config["auxiliary"]])
    return dict(
        _once(simulate, _shapes(config), text, stepping, micro_rows, str(precision), accumulates, recompute, kind)
    )


_known: dict[str, Any] = {}


def _once(work_out: Callable[[], Any], *of: Any) -> Any:
    """What is the same for many jobs of a sweep, worked out for the first of them."""
    key = json.dumps([work_out.__qualname__, *of], default=vars)
    if key not in _known:
        _known[key] = work_out()
    return _known[key]


def _shapes(config: Mapping[str, Any]) -> Any:
    return [config[name] for name in ("model", *PARTS)]


def _without_floats(value: Any) -> Any:
    if isinstance(value, Mapping | list):
        inside = value.items() if isinstance(value, Mapping) else enumerate(value)
        return {key: _without_floats(part) for key, part in inside}
    return None if isinstance(value, float) else value


def _check_stages(made: Any, routed: list[Group], optimizers: Optimizers, way: list[Windows]) -> None:
    """What changes during the run must be able to; `way` are its windows."""
    made.position.check_windows([long for long, _ in way])
    before = made.windows
    for step, (each, _) in enumerate(itertools.groupby(way)):
        made.move_windows(each) if step else made.begin(each)
    made.set_windows(before)
    if made.embedding.split_at is not None:
        owners = {group.to for group in routed if group.role in ("embedding", "head")}
        foreign = [name for name in owners if isinstance(optimizers.by_name[name], Foreign)]
        if len(owners) > 1 or foreign:
            raise ConfigError(
                "embedding: the split copies the table's optimizer state to the head: routing.embedding.to and routing.head.to "
                f"must be one optimizer, and ramen's own, got {', '.join(sorted(owners))}"
            )


def _try_schedules(config: Mapping[str, Any], owner: str, routed: list[Group]) -> None:
    """A hyperparameter must be in its range wherever its schedule takes it."""
    for key, node in schedules(config[owner]).items():
        where = f"{owner}.{key}_schedule"
        base = config[owner][key]
        made = _curve(node, where, config["allow_targets"])
        for value in sorted({base * made(part / 20) for part in range(21)}):
            try:
                optimizers({**config, owner: {**config[owner], key: value}}, routed)
            except ConfigError as error:
                raise ConfigError(f"{where}: takes {owner}.{key} to {value:g}: {error}") from error


def _curve(node: Mapping[str, Any], name: str, allow: list[str]) -> Callable[[float], float]:
    made = factory(node, allow)
    with _named(name):
        for progress in (0.0, 0.5, 1.0):
            made(progress)
    return made
