"""Composition of a config with every problem of its overrides told at once; Hydra itself stops at the first."""

import contextlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ramen.config.check import check, flatten
from ramen.config.compose import plain
from ramen.config.registry import CONF
from ramen.config.suggestions import suggest_key
from ramen.errors import ConfigError, suggest

SEARCH = "hydra.searchpath"
PLUGINS = {"hydra/sweeper/optuna": "optuna", "hydra/launcher/submitit": "slurm"}  # option -> the extra that brings it


@dataclass(frozen=True)
class Composer:
    """Composes configs from one place: Hydra's --config-path, --config-name and --config-dir."""

    path: str = str(CONF)
    name: str = "config"
    extra: str | None = None  # a folder of further configs

    @contextlib.contextmanager
    def open(self) -> Iterator["Composer"]:
        """Initialise Hydra for this place; `compose` works inside alone."""
        outer = GlobalHydra.instance().hydra  # of a notebook that uses Hydra itself
        GlobalHydra.instance().clear()
        try:
            with hydra.initialize_config_dir(self.path, version_base="1.3"):
                yield self
        finally:
            GlobalHydra.instance().hydra = outer

    def parse(self, overrides: Iterable[str]) -> list[Override]:
        """The overrides in Hydra's grammar. ConfigError names those that are not."""
        parser = OverridesParser.create(GlobalHydra.instance().config_loader())
        parsed, problems = [], []
        for word in overrides:
            try:
                parsed += parser.parse_overrides([word])  # with the options that a glob(...) means
                if not parsed[-1].key_or_group:
                    raise HydraException("no key")
            except HydraException:
                problems.append(_unreadable(word))
        if problems:
            raise ConfigError(*problems)
        return parsed

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """The composed config with its `hydra` section. ConfigError tells every problem of the overrides."""
        try:
            return self._compose(overrides)
        except Exception as error:  # Hydra raises ValueError and AssertionError, too
            raise ConfigError(*self.problems(overrides, error)) from error

    def checked(self, overrides: Sequence[str]) -> tuple[DictConfig, dict[str, Any]]:
        """The composed config, and its plain values. ConfigError tells every problem of both."""
        config = self.compose(overrides)
        values = resolved(config)
        check(values)
        return config, values

    def problems(self, overrides: Sequence[str], error: Exception) -> list[str]:
        """What is wrong with overrides that ended in `error`, a line each; mistakes in their values included."""
        try:
            config = self._compose([])
        except Exception as broken:  # no override is to blame
            return [located(broken)]
        found: dict[str, None] = {}
        groups: list[str] = []
        values: list[str] = []
        for word in overrides:
            try:
                [override] = self.parse([word])
            except ConfigError as problem:
                found |= dict.fromkeys(problem.problems)
                continue
            options = self.options(override.key_or_group)
            wrong = _wrong_options(override, options) if options else []
            if override.is_sweep_override():
                wrong.append(
                    f"{word}: several values are a sweep; add -m, or write a list as {override.get_key_element()}=[A,B]"
                )
            found |= dict.fromkeys(wrong)
            if not wrong:
                (groups if options else values).append(word)
        accepted: list[str] = []
        wrong, config = self._accept(groups, accepted, config)  # groups first: keys depend on them
        found |= dict.fromkeys(wrong)
        known = [word for word in values if not _unknown_key(word, config)]
        found |= {_unknown_key(word, config) or "": None for word in values if word not in known}
        wrong, config = self._accept(known, accepted, config)
        found |= dict.fromkeys(wrong)
        try:
            check(resolved(config))
        except ConfigError as problem:
            refused = {key_of(word) for word in overrides} - {key_of(word) for word in accepted}
            found |= dict.fromkeys(line for line in problem.problems if line.partition(":")[0] not in refused)
        return list(found) or [located(error)]

    def _search(self) -> list[str]:
        return [f"{SEARCH}=['file://{self.extra}']"] if self.extra else []

    def _compose(self, overrides: Sequence[str]) -> DictConfig:
        return hydra.compose(self.name, [*self._search(), *overrides], return_hydra_config=True)

    def options(self, group: str) -> list[str]:
        """The options of a config group; none for what is no group."""
        loader = GlobalHydra.instance().config_loader()
        known = group not in ("", "hydra")  # Hydra takes these two for groups
        return sorted(loader.get_group_options(group, config_name=self.name, overrides=self._search())) if known else []

    def _accept(self, words: list[str], accepted: list[str], config: DictConfig) -> tuple[list[str], DictConfig]:
        """Add the overrides that compose after the accepted ones to these. What is wrong with the others, and the config of all.

        Whole halves are tried, so that one mistake among n costs about 2 log n compositions instead of n.
        """
        if not words:
            return [], config
        try:
            config = self._compose([*accepted, *words])
        except Exception as error:
            if len(words) == 1:
                return [_explain(words[0], error, config)], config
            half = len(words) // 2
            first, config = self._accept(words[:half], accepted, config)
            second, config = self._accept(words[half:], accepted, config)
            return first + second, config
        accepted += words
        return [], config


def resolved(config: DictConfig) -> dict[str, Any]:
    """The plain values of a composed config. ConfigError names every key whose interpolation fails."""
    try:
        return plain(config)
    except OmegaConfBaseException as error:
        raw: Any = OmegaConf.to_container(config, resolve=False)
        problems = []
        for key, value in flatten({name: node for name, node in raw.items() if name != "hydra"}).items():
            try:
                OmegaConf.select(config, key)
            except OmegaConfBaseException as broken:
                problems.append(f"{key}: {_first_line(broken)}, got {value!r}")
        raise ConfigError(*(problems or [located(error)])) from error


def key_of(word: str) -> str:
    """The key that an override sets, or its group."""
    return word.lstrip("+~").partition("=")[0]


def sweep_values(override: Override) -> Iterator[str]:
    """The override once for each value of its sweep, of which there may be very many."""
    values = override.value()
    if not override.is_sweep_override():
        yield override.input_line or ""
    elif isinstance(values, IntervalSweep):  # of a search: its ends
        yield from (f"{override.get_key_element()}={end}" for end in (values.start, values.end))
    else:
        yield from (f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator())


def located(error: Exception) -> str:
    """An error of Hydra or OmegaConf in one line, behind the key it is about; they go on about their own insides after it."""
    cause = error.__cause__
    error = cause if isinstance(cause, OmegaConfBaseException) else error
    key = error.full_key if isinstance(error, OmegaConfBaseException) else None
    return f"{key}: {_first_line(error)}" if key else _first_line(error)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _explain(word: str, error: Exception, config: DictConfig) -> str:
    """What is wrong with an override that ended in `error` after those of the config."""
    for plugin in PLUGINS:
        if re.search(f"Could not (find|load) '{plugin}", str(error)):
            return _missing_plugin(word, plugin)
    return _unknown_key(word, config) or f"{word}: {located(error)}"


def _unknown_key(word: str, config: DictConfig) -> str | None:
    """What is wrong with the key of an override, if the config has none of its name."""
    if word[0] == "+":
        return None
    key, _, value = word.lstrip("~").partition("=")
    group, _, place = key.partition("@")
    whole: Any = OmegaConf.to_container(config, resolve=False)
    node = whole
    *sections, last = (place or key).split(".")
    for i, name in enumerate([*sections, last]):
        if not isinstance(node, dict):
            break
        if name not in node and place and i == len(sections):
            owner = ".".join(sections)
            how = f"; +schedule@{owner}.lr_schedule={value} adds one" if group == "schedule" and owner else ""
            known = [name for name in map(str, node) if name.endswith(group)]
            return f"{key}: no such {group} of {owner or 'the config'}{suggest(name, known)}{how}"
        if name not in node:
            keys = flatten({str(key): value for key, value in whole.items() if key != "hydra"})
            return f"{'.'.join([*sections[:i], name])}: no such key{suggest_key(name, node, keys)}"
        node = node[name]
    return None


def _wrong_options(override: Override, options: list[str]) -> list[str]:
    """What is wrong with the choices of an override of a group that has these options."""
    key = override.get_key_element()
    values = islice(sweep_values(override), len(options) + 1)  # of which one is wrong, if there are more
    choices = [value.partition("=")[2].strip("'\"") for value in values]
    wrong = [choice for choice in choices if choice not in options and not override.is_delete()]
    plugins = [plugin for choice in wrong if (plugin := f"{override.key_or_group}/{choice}") in PLUGINS]
    if plugins:
        return [_missing_plugin(override.input_line or "", plugin) for plugin in plugins]
    return [f"{key}: no such option, got {', '.join(map(repr, wrong))}{suggest(wrong[0], options)}"] if wrong else []


def _missing_plugin(word: str, plugin: str) -> str:
    return f"{word}: needs a plugin of Hydra that is not installed: pip install 'ramen[{PLUGINS[plugin]}]'"


def _unreadable(word: str) -> str:
    key, equals, value = word.partition("=")
    if not equals or not key:
        return f"{word}: is no override; write KEY=VALUE"
    quoted = value.replace('"', r"\"")
    return f"{word}: cannot be read; quote the value, within the quotes of the shell: '{key}=\"{quoted}\"'"
