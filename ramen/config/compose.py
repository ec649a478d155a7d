"""From the overrides of a command to a config of plain values, with all their problems at once; Hydra stops at the first."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from ramen.config.check import check, flatten
from ramen.config.kinds import COMPOSITIONS, TUNED
from ramen.config.registry import CONF
from ramen.config.replaced import Files, Options, leave_out
from ramen.errors import ConfigError, suggest

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
                key, equals, value = word.partition("=")
                quoted = value.replace('"', r"\"")
                remedy = f"quote the value, within the quotes of the shell: '{key}=\"{quoted}\"'"
                reason = f"cannot be read; {remedy}" if key and equals else "is no override; write KEY=VALUE"
                problems.append(f"{word}: {reason}")
        if problems:
            raise ConfigError(*problems)
        return parsed

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """The composed config with its `hydra` section. ConfigError names every problem of the overrides."""
        try:
            return self._compose(overrides)
        except Exception as error:  # Hydra raises ValueError and AssertionError, too
            raise ConfigError(*self.problems(overrides, error)) from error

    def checked(self, overrides: Sequence[str]) -> tuple[DictConfig, dict[str, Any]]:
        """The composed config, and its plain values. ConfigError names every problem of both."""
        config = self.compose(overrides)
        values = plain(config)
        check(values)
        return config, values

    def problems(self, overrides: Sequence[str], error: Exception) -> list[str]:
        """All that is wrong with overrides that ended in `error`, a line each; mistakes in their values included."""
        try:
            config = self._compose([])
        except Exception as broken:  # no override is to blame
            return [located(broken)]
        problems: list[str] = []
        groups: list[str] = []
        values: list[str] = []
        for word in overrides:
            try:
                [override] = self.parse([word])
            except ConfigError as unreadable:
                problems += unreadable.problems
                continue
            options = self.options(override.key_or_group)
            wrong = _wrong_options(override, options) if options else []
            if override.is_sweep_override():
                wrong.append(
                    f"{word}: several values are a sweep; add -m, or write a list as {override.get_key_element()}=[A,B]"
                )
            problems += wrong
            if wrong:
                continue
            if options or word[0] in "+~" or word.startswith("hydra"):
                (groups if options else values).append(word)
            else:
                values.append(f"++{word}")  # a key that does not exist is added, for `check` to refuse with the others
        accepted: list[str] = []
        for some in (groups, values):  # keys depend on groups
            wrong, config = self._accept(some, accepted, config)
            problems += wrong
        try:
            check(plain(config))
        except ConfigError as unfit:
            refused = {key_of(word) for word in overrides} - {key_of(word) for word in accepted}
            problems += [line for line in unfit.problems if line.partition(":")[0] not in refused]
        return list(dict.fromkeys(problems)) or [located(error)]

    def options(self, group: str) -> list[str]:
        """The options of a config group; none for what is no group."""
        if group in ("", "hydra"):  # Hydra takes these two for groups
            return []
        loader = GlobalHydra.instance().config_loader()
        return sorted(loader.get_group_options(group, config_name=self.name, overrides=self._search()))

    def _search(self) -> list[str]:
        return [f"hydra.searchpath=['file://{self.extra}']"] if self.extra else []

    def _compose(self, overrides: Sequence[str]) -> DictConfig:
        return hydra.compose(self.name, [*self._search(), *overrides], return_hydra_config=True)

    def _accept(self, overrides: list[str], accepted: list[str], config: DictConfig) -> tuple[list[str], DictConfig]:
        """Add the overrides that compose after the accepted ones to these. Problems of the others, and the config of all."""
        problems: list[str] = []
        try:
            config = self._compose([*accepted, *overrides])
            accepted += overrides
        except Exception as error:
            if len(overrides) == 1:
                return [_explain(overrides[0], error, config)], config
            for override in overrides:
                wrong, config = self._accept([override], accepted, config)
                problems += wrong
        return problems, config


def compose(overrides: Iterable[str]) -> dict[str, Any]:
    """The plain config of a command line. ConfigError names every problem of the overrides."""
    with Composer().open() as composer:
        return plain(composer.compose(list(overrides)))


def plain(config: DictConfig, hydra_config: Any = None) -> dict[str, Any]:
    """The plain values of a config that Hydra composed, which holds Hydra's own part unless that is given beside it.

    ConfigError names keys whose interpolation fails, and rates of another optimizer.
    """
    task = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    try:
        values: Any = OmegaConf.to_container(task, resolve=True)
    except OmegaConfBaseException as error:
        raw: Any = OmegaConf.to_container(task, resolve=False)
        problems = []
        for key, value in flatten(raw).items():
            try:
                OmegaConf.select(task, key)
            except OmegaConfBaseException as broken:
                problems.append(f"{key}: {_first_line(broken)}, got {value!r}")
        raise ConfigError(*(problems or [located(error)])) from error
    hydra_config = hydra_config or config.hydra
    chosen = choices(hydra_config)
    if any(kind in chosen for kind in COMPOSITIONS):
        folders = [Path(source.path) for source in hydra_config.runtime.config_sources if source.schema == "file"]
        leave_out(values, Files(folders), chosen, hydra_config.overrides.task)
    return values


def choices(hydra_config: Any) -> Options:
    """Section or composition -> the option that a command chose, for those that chose one."""
    return {
        group.rpartition("@")[2]: str(name)
        for group, name in hydra_config.runtime.choices.items()
        if name is not None and group != TUNED and not group.startswith("hydra/")
    }


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
    if isinstance(error, ConfigKeyError | ConfigAttributeError) and error.parent_node is not None:
        return f"{error.full_key}: no such key{suggest(error.key, map(str, error.parent_node))}"
    key = error.full_key if isinstance(error, OmegaConfBaseException) else None
    return f"{key}: {_first_line(error)}" if key else _first_line(error)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _explain(word: str, error: Exception, config: DictConfig) -> str:
    """The problem of an override that ended in `error` after those of the config."""
    key = key_of(word)
    group, at, _ = key.partition("@")
    if at and word[0] not in "+~":
        places = [chosen for chosen in config.hydra.runtime.choices if chosen.startswith(f"{group}@")]
        return f"{key}: no such {group}{suggest(key, places)}; +{word} adds one"
    return _missing_plugin(word, str(error)) or f"{word}: {located(error)}"


def _wrong_options(override: Override, options: list[str]) -> list[str]:
    """The problems of an override of a group that has these options."""
    values = islice(sweep_values(override), len(options) + 1)  # of which one is wrong, if there are more
    names = [value.partition("=")[2].strip("'\"") for value in values]
    wrong = [name for name in names if name not in options and not override.is_delete()]
    if not wrong:
        return []
    plugin = _missing_plugin(override.input_line or "", f"{override.key_or_group}/{wrong[0]}")
    got = ", ".join(map(repr, wrong))
    return [plugin or f"{override.get_key_element()}: no such option, got {got}{suggest(wrong[0], options)}"]


def _missing_plugin(word: str, text: str) -> str | None:
    """The problem of an override that needs a plugin of Hydra, if the text names an option of one."""
    extra = next((extra for option, extra in PLUGINS.items() if option in text), None)
    return f"{word}: needs a plugin of Hydra that is not installed: pip install 'ramen[{extra}]'" if extra else None
