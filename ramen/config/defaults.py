"""The defaults of an option, read from its yaml: what a loop of one's own needs, without Hydra and without a clone."""

from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf

from ramen.config.check import SCHEDULE_SUFFIX, check_node, without_schedules
from ramen.config.kinds import KINDS
from ramen.config.registry import CONF, options
from ramen.errors import ConfigError, suggest


def describe(kind: str | None = None, name: str | None = None) -> str:
    """All kinds and what their components take by position; the options of a kind; or the keys of an option with their comments.

    ConfigError for an unknown kind or name, with the closest one.
    """
    if kind is None:
        return "\n".join(f"{kind}: {', '.join(one.runtime) or 'nothing'}" for kind, one in KINDS.items() if one.package)
    _check_name(kind, name)
    if name is None:
        return "\n".join(f"{option.name}: {option.summary}" for option in options(kind).values())
    return (CONF / kind / f"{name}.yaml").read_text()


def option_node(kind: str, name: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The checked values of an option with `changes`, without schedules: those belong to a run. ConfigError names what is wrong."""
    _check_name(kind, name)
    node: Any = OmegaConf.to_container(OmegaConf.load(CONF / kind / f"{name}.yaml"))
    node = without_schedules({key: value for key, value in node.items() if key != "defaults"})
    fixed = {"_target_", *(key + SCHEDULE_SUFFIX for key in node)}
    problems = [f"{kind}.{key}: cannot be changed here, got {changes[key]!r}" for key in changes if key in fixed]
    node |= {key: list(value) if isinstance(value, tuple) else value for key, value in changes.items()}
    problems += [f"{kind}.{key}: must be given, got nothing" for key, value in node.items() if value == "???"]
    problems = problems or check_node(node, kind, kind)
    if problems:
        raise ConfigError(*problems)
    return node


def _check_name(kind: str, name: str | None) -> None:
    known = [kind for kind, one in KINDS.items() if one.package]
    if kind not in known:
        raise ConfigError(f"{kind}: no such kind{suggest(kind, known)}")
    if name is not None and name not in options(kind):
        raise ConfigError(f"{kind}: no such option, got {name!r}{suggest(name, options(kind))}")
