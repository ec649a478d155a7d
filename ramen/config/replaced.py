"""Values that a composition sets for an option which another one replaces.

`experiment=baseline embedding=tied` is the ablation ramen is for: the experiment's values hold as far as the chosen option
has such a key, and its values for a key of the replaced option alone are left out. A key that is of neither stays, for the
check of the config to refuse. The rates of an optimizer are its own: conf/tuned/<experiment>/<optimizer>.yaml has them, which
Hydra's defaults list chooses by both names; a rate that an experiment sets for another optimizer is never handed on.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from ramen.config.kinds import COMPOSITIONS, SECTIONS, TUNED
from ramen.config.registry import OPTIMIZERS
from ramen.errors import ConfigError

Options = dict[str, str]  # section, or composition -> name of the chosen option


class Composition(NamedTuple):
    """A file of an experiment, sweep or debug setting: its name as an override, the options it is written for, its values."""

    override: str
    options: Options
    values: dict[str, Any]


class Files:
    """The yaml files of a search path."""

    def __init__(self, folders: Sequence[Path]):
        self.folders = folders
        self.root = dict(_chosen("", self.read("config") or {}))

    def read(self, name: str) -> dict[str, Any] | None:
        """The values of a file, its defaults list among them; None if there is no such file."""
        paths = (folder / f"{name}.yaml" for folder in self.folders)
        path = next(filter(Path.is_file, paths), None)
        return (yaml.safe_load(path.read_text()) or {}) if path else None

    def keys(self, section: str, option: str | None) -> dict[str, str | None]:
        """The keys that an option gives its section, with the option of those that are a section themselves."""
        values = self.read(f"{SECTIONS.get(section, 'schedule')}/{option}") or {}
        return {**dict.fromkeys(values), **dict(_chosen("", values))}

    def lineage(self, kind: str, name: str) -> list[Composition]:
        """The file of a composition, after those it inherits."""
        values, options, files = self.read(f"{kind}/{name}") or {}, dict(self.root), list[Composition]()
        for section, option in _chosen(kind, values):
            if section in COMPOSITIONS:
                files += self.lineage(section, option)
                options |= files[-1].options
            options[section] = option
        return [*files, Composition(f"{kind}={name}", options, values)]


def leave_out(config: dict[str, Any], files: Files, chosen: Options, overrides: Sequence[str]) -> None:
    """Remove from a config what compositions set for options that others have replaced. ConfigError for an optimizer's rates."""
    experiment, optimizer = chosen.get("experiment"), chosen.get("optimizer")
    tuned = files.read(f"{TUNED}/{experiment}/{optimizer}")
    last_set = {*_keys(overrides), *(f"{section}.{key}" for section, node in (tuned or {}).items() for key in node)}
    problems = []
    for file in (file for kind in COMPOSITIONS if kind in chosen for file in files.lineage(kind, chosen[kind])):
        name = file.override.removeprefix("experiment=")
        if tuned is None and files.read(f"{TUNED}/{name}/{optimizer}") is not None:
            problems.append(
                f"experiment={experiment}: inherits {name}, but not its rates for optimizer={optimizer}; write a file "
                f"{TUNED}/{experiment}/{optimizer}.yaml, with `defaults: [/{TUNED}/{name}/{optimizer}]` to take them"
            )
        for section, option in chosen.items():
            keys = [key for key in _select(file.values, section) if f"{section}.{key}" not in last_set]
            outer, _, inner = section.partition(".")  # as optimizer.momentum_schedule
            intended = file.options.get(outer)
            if inner:
                intended = files.keys(outer, intended).get(inner)
            if not keys or intended == option:
                continue
            replaced, known = files.keys(section, intended), files.keys(section, option)
            for key in keys if known else ():
                if key in replaced and key not in known:
                    _select(config, section).pop(key, None)
                elif key in known and section in OPTIMIZERS:
                    problems.append(
                        f"{section}.{key}: {file.override} sets it for {section}={intended}, and {section}={option} is "
                        f"chosen; give {section}.{key}=VALUE, or move the optimizer's values to {TUNED}/{name}/{intended}.yaml"
                    )
    if problems:
        raise ConfigError(*problems)


def _select(values: Any, section: str) -> dict[str, Any]:
    for name in section.split("."):
        values = values.get(name) if isinstance(values, dict) else None
    return values if isinstance(values, dict) else {}


def _keys(overrides: Sequence[str]) -> Iterator[str]:
    """The key of every value that overrides set."""
    for override in OverridesParser.create().parse_overrides(list(overrides)):
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
