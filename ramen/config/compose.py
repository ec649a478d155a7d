"""From a command's words to a config of plain values, and what an experiment says of an option that another one replaces.

`experiment=baseline embedding=tied` is the ablation ramen is for: the experiment's values hold as far as the chosen option
has such a key, and its values for a key of the replaced option alone are left out. A key that is of neither stays, for the
check of the config to refuse. The rates of an optimizer are its own: conf/tuned/<experiment>/<optimizer>.yaml has them, which
Hydra's defaults list chooses by both names; a rate that an experiment sets for another optimizer is never handed on.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from ramen.config.kinds import COMPOSITIONS, SECTIONS, TUNED
from ramen.config.registry import CONF, OPTIMIZERS
from ramen.errors import ConfigError

Options = dict[str, str]  # section, or composition -> name of the chosen option


def compose(words: Iterable[str]) -> dict[str, Any]:
    """The plain config of a command line. HydraException or ConfigError where there is none."""
    running = GlobalHydra.instance().is_initialized()
    with nullcontext() if running else hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return plain(hydra.compose("config", list(words), return_hydra_config=True))


def plain(cfg: DictConfig, hydra_config: Any = None) -> dict[str, Any]:
    """The plain values of a config that Hydra composed, which holds Hydra's own part unless that is given beside it.

    ConfigError names keys without a value, and rates of another optimizer.
    """
    task = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    if missing := sorted(OmegaConf.missing_keys(task)):
        raise ConfigError(*(f"{key}: must be given, got nothing; write {key}=VALUE" for key in missing))
    config: Any = OmegaConf.to_container(task, resolve=True, throw_on_missing=True)
    hydra_config = hydra_config or cfg.hydra
    chosen = choices(hydra_config)
    if any(kind in chosen for kind in COMPOSITIONS):
        folders = [Path(source.path) for source in hydra_config.runtime.config_sources if source.schema == "file"]
        _leave_out(config, Files(folders), chosen, hydra_config.overrides.task)
    return config


def choices(hydra_config: Any) -> Options:
    """Section or composition -> the option that a command chose, for those that chose one."""
    chosen = {group: str(name) for group, name in hydra_config.runtime.choices.items() if name is not None}
    return {
        group.rpartition("@")[2]: name
        for group, name in chosen.items()
        if group != TUNED and not group.startswith("hydra/")
    }


@dataclass(frozen=True)
class Written:
    """A file of a composition: its name as a word, the options it is written for, and its values."""

    name: str
    options: Options
    values: dict[str, Any]


class Files:
    """The yaml files of a search path."""

    def __init__(self, folders: Sequence[Path]):
        self.folders = folders
        self.root = dict(_chosen("", self.read("config") or {}))

    def read(self, *path: str) -> dict[str, Any] | None:
        """The values of a file, its defaults list among them; None if there is no such file."""
        found = (folder.joinpath(*path[:-1], f"{path[-1]}.yaml") for folder in self.folders)
        file = next(filter(Path.is_file, found), None)
        return (yaml.safe_load(file.read_text()) or {}) if file else None

    def keys(self, section: str, option: str | None) -> dict[str, str | None]:
        """The keys that an option gives its section, with the option of those that are a section themselves."""
        values = self.read(SECTIONS.get(section, "schedule"), str(option)) or {}
        return {**dict.fromkeys(values), **dict(_chosen("", values))}

    def meant(self, options: Options, section: str) -> str | None:
        """The option of a section, or of one inside it: `optimizer.momentum_schedule`."""
        outer, _, inner = section.partition(".")
        return self.keys(outer, options.get(outer)).get(inner) if inner else options.get(outer)

    def lineage(self, kind: str, name: str) -> list[Written]:
        """The file of a composition, after those it inherits."""
        values, options, files = self.read(kind, name) or {}, dict(self.root), list[Written]()
        for section, option in _chosen(kind, values):
            if section in COMPOSITIONS:
                files += self.lineage(section, option)
                options |= files[-1].options
            options[section] = option
        return [*files, Written(f"{kind}={name}", options, values)]


def _leave_out(config: dict[str, Any], files: Files, chosen: Options, words: Sequence[str]) -> None:
    """Take from a config what a composition says of options that others have replaced."""
    experiment, optimizer = chosen.get("experiment"), chosen.get("optimizer")
    tuned = files.read(TUNED, f"{experiment}/{optimizer}")
    given = {*_given(words), *(f"{section}.{key}" for section, node in (tuned or {}).items() for key in node)}
    problems = []
    for file in (file for kind in COMPOSITIONS if kind in chosen for file in files.lineage(kind, chosen[kind])):
        name = file.name.removeprefix("experiment=")
        if tuned is None and files.read(TUNED, f"{name}/{optimizer}") is not None:
            problems.append(
                f"experiment={experiment}: inherits {name}, but not its rates for optimizer={optimizer}; write a file "
                f"{TUNED}/{experiment}/{optimizer}.yaml, with `defaults: [/{TUNED}/{name}/{optimizer}]` to take them"
            )
        for section, option in chosen.items():
            said = [key for key in _select(file.values, section) if f"{section}.{key}" not in given]
            if not said or (meant := files.meant(file.options, section)) == option:
                continue
            replaced, known = files.keys(section, meant), files.keys(section, option)
            for key in said if known else ():
                if key in replaced and key not in known:
                    _select(config, section).pop(key, None)
                elif key in known and section in OPTIMIZERS:
                    problems.append(
                        f"{section}.{key}: {file.name} sets it for {section}={meant}, and {section}={option} is chosen; give "
                        f"{section}.{key}=VALUE, or move the optimizer's values to {TUNED}/{name}/{meant}.yaml"
                    )
    if problems:
        raise ConfigError(*problems)


def _select(values: Any, section: str) -> dict[str, Any]:
    for name in section.split("."):
        values = values.get(name) if isinstance(values, dict) else None
    return values if isinstance(values, dict) else {}


def _given(words: Sequence[str]) -> Iterator[str]:
    """The key of every value that words set."""
    for override in OverridesParser.create().parse_overrides(list(words)):
        value = override.value()
        yield override.key_or_group
        yield from (f"{override.key_or_group}.{key}" for key in (value if isinstance(value, dict) else ()))


def _chosen(kind: str, values: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(section or composition, option) of each line of a defaults list; a bare name is a file of the same `kind`."""
    for line in values.get("defaults", ()):
        if isinstance(line, str):
            folder, _, name = line.lstrip("/").rpartition("/")
            line = {folder or kind: name}
        for group, name in line.items():
            if name not in (None, "_self_"):
                yield group.removeprefix("override ").lstrip("/").rpartition("@")[2], str(name)
