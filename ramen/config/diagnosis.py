"""What is wrong with a command: every problem at once, each with what is allowed; Hydra itself stops at the first."""

import re
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ramen.config.check import check, suggest
from ramen.config.compose import compose
from ramen.config.registry import CONF
from ramen.errors import ConfigError

SEARCH = "hydra.searchpath"
PLUGINS = {"hydra/sweeper/optuna": "optuna", "hydra/launcher/submitit": "slurm"}  # what is not found -> what brings it


def diagnose(words: list[str], error: Exception) -> str:
    """Every problem of a command that could not be composed, one a line; Hydra itself stops at the first."""
    found: list[str] = []
    accepted: list[str] = []
    if first_line(error).startswith("Ambiguous value"):
        found.append(f"{first_line(error)}; several values are a sweep, which wants -m, or a list, as key=[1,2]")
    if first_line(error).startswith("BasicSweeper does not support"):
        found.append(
            f"{first_line(error)}; an interval is for a search: add sweep=optuna, or give values or range(a,b,step)"
        )
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        # Groups first: keys depend on them.
        for word in sorted(words, key=lambda w: (SEARCH not in w, not is_group(w))):
            try:
                override = OverridesParser.create().parse_override(word)
                for single in sweep_values(override):
                    hydra.compose("config", [*accepted, single])
                accepted.append(sweep_values(override)[0])
            except HydraException as problem:
                found.append(explain(word, problem, accepted))
        try:
            check(compose(accepted))
        except ConfigError as problem:
            found.extend(problem.problems)
        except (HydraException, OmegaConfBaseException) as problem:
            found.append(first_line(problem))
    return "\n".join(found or [first_line(error)])


def is_group(word: str) -> bool:
    """Whether an override chooses an option of a config group."""
    return (CONF / word.lstrip("+~").partition("=")[0].partition("@")[0]).is_dir()


def sweep_values(override: Override) -> list[str]:
    """The override once for each value of its sweep."""
    if not override.is_sweep_override():
        return [override.input_line or ""]
    if not override.is_discrete_sweep():  # an interval, of a search: its ends
        return [f"{override.get_key_element()}={end}" for end in (override._value.start, override._value.end)]  # type: ignore
    return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]


def explain(word: str, problem: Exception, accepted: list[str]) -> str:
    """What is wrong with this override after the `accepted` ones, and what is allowed there."""
    for plugin, extra in PLUGINS.items():
        if re.search(f"Could not (find|load) '{plugin}", str(problem)):
            return f"{word}: needs a plugin of Hydra that is not installed: pip install 'ramen[{extra}]'"
    key, _, value = word.lstrip("+~").partition("=")
    group = key.partition("@")[0]
    if is_group(word) and value:
        options = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
        wrong = [v for v in value.split(",") if v not in options]
        if wrong:
            return f"{key}: no such option, got {', '.join(map(repr, wrong))}{suggest(wrong[0], options)}"
    node: Any = hydra.compose("config", accepted)
    if place := key.partition("@")[2]:
        section, _, name = place.rpartition(".")
        owner = OmegaConf.select(node, section)
        if OmegaConf.is_dict(owner) and name not in owner:
            how = f"; +schedule@{section}.lr_schedule={value} adds one" if group == "schedule" and section else ""
            known = [str(own) for own in owner if str(own).endswith(group)]
            return f"{key}: no such {group} of {section or 'the config'}{suggest(name, known)}{how}"
        key = place
    path: list[str] = []
    for name in key.split("."):
        if not OmegaConf.is_dict(node) or name == "hydra":  # whose own keys a composed config does not show
            break
        if name not in node:
            return f"{'.'.join([*path, name])}: no such key{suggest(name, map(str, node))}"
        path.append(name)
        node = node[name]
    return f"{word}: {first_line(problem)}"


def first_line(error: Exception) -> str:
    """Hydra's and OmegaConf's errors go on about their own insides after it."""
    return str(error).strip().splitlines()[0]
