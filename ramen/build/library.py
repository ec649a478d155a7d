"""Components for a training loop of one's own, without Hydra: ramen.component and ramen.describe; ramen.optimizer leads here."""

from typing import Any

import torch
from omegaconf import OmegaConf
from torch import nn

from ramen.build.objects import build_optimizer
from ramen.config.check import SCHEDULE_SUFFIX, check_node, without_schedules
from ramen.config.kinds import KINDS
from ramen.config.registry import CONF, OPTIMIZERS, build, factory, options
from ramen.errors import ConfigError, suggest
from ramen.nn.contracts import RestoresWeights
from ramen.nn.parameter import initialise


def describe(kind: str | None = None, name: str | None = None) -> str:
    """The kinds and what each takes by position; a kind's options; or an option's keys, defaults and comments.

    ConfigError for an unknown kind or name, with the closest one.
    """
    if kind is None:
        return "\n".join(f"{kind}: {', '.join(one.runtime) or 'nothing'}" for kind, one in KINDS.items() if one.package)
    _check_name(kind, name)
    if name is None:
        return "\n".join(f"{option}: {file.summary}" for option, file in options(kind).items())
    return (CONF / kind / f"{name}.yaml").read_text()


def component(kind: str, name: str, *runtime: Any, **changes: Any) -> Any:
    """Build an option of a kind: `ramen.component("mlp", "nff", dim, linear, expansion=8.0)`.

    `runtime` is what the kind takes by position (`print(ramen.describe())`), `changes` are keys of the option's yaml
    (`print(ramen.describe("mlp", "nff"))`), which has a default for every one. A module's weights start as in a run, drawn from
    torch's default generator. `linear` is a function (rows, columns, stds) -> module:
    `functools.partial(ramen.component, "linear", "dense")`. A schedule is returned as a function of progress in [0, 1].

    ConfigError for an unknown kind, name or key, with the closest one; ValueError for a value out of range.
    """
    _check_name(kind, name)
    node: Any = OmegaConf.to_container(OmegaConf.load(CONF / kind / f"{name}.yaml"))
    # Schedules belong to a run.
    node = without_schedules({key: value for key, value in node.items() if key != "defaults"})
    fixed = {"_target_", *(key + SCHEDULE_SUFFIX for key in node)}
    problems = [f"{kind}.{key}: cannot be changed here, got {changes[key]!r}" for key in changes if key in fixed]
    node |= {key: list(value) if isinstance(value, tuple) else value for key, value in changes.items()}
    if problems := problems or check_node(node, kind, kind):
        raise ConfigError(*problems)
    if kind == "schedule" and not runtime:
        return factory(node)
    if len(runtime) != len(KINDS[kind].runtime):
        expected = ", ".join(KINDS[kind].runtime) or "nothing"
        raise ConfigError(f"{kind}={name}: takes {expected} by position, got {len(runtime)} arguments")
    if kind in OPTIMIZERS:
        return build_optimizer(node, list(runtime[0]), [])
    built = build(node, *runtime)
    if isinstance(built, nn.Module):
        with torch.no_grad():
            initialise(built, int(torch.randint(2**62, ())))
            for module in built.modules():
                if isinstance(module, RestoresWeights):
                    module.after_step()
    return built


def _check_name(kind: str, name: str | None) -> None:
    kinds = [kind for kind, one in KINDS.items() if one.package]
    if kind not in kinds:
        raise ConfigError(f"{kind}: no such kind{suggest(kind, kinds)}")
    if name is not None and name not in options(kind):
        raise ConfigError(f"{kind}: no such option, got {name!r}{suggest(name, options(kind))}")
