"""A `ramen train` command: Hydra's options, overrides of the config, and `resume=FOLDER`.

Imports no torch: --help and tab completion answer at once.
"""

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig

import ramen
from ramen.config import secret
from ramen.config.compose import Composer, choices, key_of, plain
from ramen.config.kinds import COMPOSITIONS
from ramen.config.registry import CONF
from ramen.errors import ConfigError
from ramen.runs.folder import COMMAND, RunFolder

if TYPE_CHECKING:
    from ramen.build.run import Command

AUTO = "auto"
PRINTS = {"help", "hydra_help", "cfg", "info", "shell_completion"}  # options that print something in place of a run
PLUGINS = {  # that a saved command may choose
    "hydra/launcher": ("basic", "slurm", "submitit_slurm", "submitit_local"),
    "hydra/sweeper": ("basic", "optuna"),
}
OPTIONS = re.compile(r"(?!.*\.\.)[\w,.=@+ ()\[\]'\"-]*")  # names, several or quoted, and no path
OF_ITS_FOLDER = {"resume", "hydra.mode", "hydra.sweep.dir", "hydra.run.dir"}  # a continuation has them from its folder


@dataclass(frozen=True)
class CommandLine:
    """A parsed command: Hydra's options by name, and overrides."""

    options: dict[str, Any]
    overrides: tuple[str, ...]

    @property
    def multirun(self) -> bool:
        """True with -m."""
        return "multirun" in self.options

    @property
    def prints(self) -> bool:
        """True with an option that prints something in place of a run."""
        return not PRINTS.isdisjoint(self.options)

    def composer(self) -> Composer:
        """The composer of its config folders. ConfigError for one that does not exist."""
        path, extra = (self.options.get(name) for name in ("config_path", "config_dir"))
        for name, folder in (("--config-path", path), ("--config-dir", extra)):
            if folder is not None and not Path(folder).is_dir():
                raise ConfigError(f"{name}: no such folder, got {folder!r}")
        return Composer(path or str(CONF), self.options.get("config_name", "config"), extra)

    def with_overrides(self, *overrides: str) -> "CommandLine":
        """The same command with further overrides, which win."""
        return replace(self, overrides=(*self.overrides, *overrides))

    def run(self, task: Callable[[DictConfig], Any]) -> None:
        """Hand the command to Hydra, which reads sys.argv: it documents no other entry."""
        argv, options = sys.argv, []
        for name, value in self.options.items():
            options += [f"--{name.replace('_', '-')}", *([] if value is True else [value])]
        os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # it raises its errors, to be reported here, and prints none
        try:
            sys.argv = [argv[0], *options, *self.overrides]
            hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(task)()
        finally:
            sys.argv = argv


def parse(arguments: Sequence[str]) -> CommandLine:
    """Parse a command and resolve `resume=FOLDER`. ConfigError for a secret: Hydra would save it."""
    parser = argparse.ArgumentParser(prog="ramen train", add_help=False, allow_abbrev=False)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--version", action="version", version=f"ramen {ramen.__version__}")
    for flag in ("-h --help", "--hydra-help", "-m --multirun", "-r --run", "-sc --shell-completion", "--resolve"):
        parser.add_argument(*flag.split(), action="store_true", default=None)
    for option in ("-c --cfg", "-p --package", "-cn --config-name"):
        parser.add_argument(*option.split())
    for option in ("-cp --config-path", "-cd --config-dir"):
        parser.add_argument(*option.split(), type=os.path.abspath)
    parser.add_argument("-i", "--info", nargs="?", const="all")
    parsed = vars(parser.parse_intermixed_args(arguments))
    options = {name: value for name, value in parsed.items() if value is not None}
    # `+sweep=optimizers` is what other Hydra projects want; here these groups are in the defaults list and take no plus.
    plus = re.compile(rf"^[+](?=({'|'.join(COMPOSITIONS)})=)")
    overrides = tuple(plus.sub("", word) for word in options.pop("overrides"))
    if problems := secret.problems((key_of(word), word.partition("=")[2]) for word in overrides):
        raise ConfigError(*problems)
    return _resumed(CommandLine(options, overrides))


def requested(config: DictConfig) -> "Command":
    """The run that Hydra's task is called for."""
    from ramen.build.run import Command

    context = HydraConfig.get()
    job = context.job.num if context.mode == RunMode.MULTIRUN else None
    folder, overrides = Path(context.runtime.output_dir), list(context.overrides.task)
    return Command(plain(config, context), folder, choices(context), overrides, job)


def quoted(path: Path) -> str:
    """A path as the value of an override."""
    return "'" + str(path).replace("\\", "\\\\").replace("'", "\\'") + "'"


def _resumed(command: CommandLine) -> CommandLine:
    """For `resume=FOLDER` the command that started the run or sweep there, followed by the other overrides of this one."""
    resume = list(dict.fromkeys(word for word in command.overrides if word.startswith("resume=")))
    if len(resume) > 1:
        raise ConfigError(f"resume: continues one run or sweep, got {' '.join(resume)}; leave out all but one")
    if not resume or resume[0] in ("resume=", "resume=null", f"resume={AUTO}"):
        return command  # `auto` is looked up once the config is known
    if command.multirun:
        raise ConfigError("resume: knows whether its folder is a run's or a sweep's; leave out -m")
    folder = Path(resume[0].removeprefix("resume=").strip("'\""))
    others = [word for word in command.overrides if word not in resume]
    saved = RunFolder(folder).command()
    if saved is None:
        raise ConfigError(f"resume: {folder} is not the folder of a run or sweep of this ramen; it has no {COMMAND}")
    sweep = saved[:1] == ["-m"]
    # All that is not given anew; the folder may come from anyone.
    anew = {word.partition("=")[0] for word in others} | OF_ITS_FOLDER
    replayed = [word for word in saved[sweep:] if word.partition("=")[0] not in anew]
    if refused := [word for word in replayed if not _is_harmless(word)]:
        raise ConfigError(*(f"resume: {folder / COMMAND} says {word}; give that again to trust it" for word in refused))
    folders = [f"{key}={quoted(folder)}" for key in (("hydra.sweep.dir",) if sweep else ("resume", "hydra.run.dir"))]
    options = command.options | ({"multirun": True} if sweep else {})
    return CommandLine(options, (*replayed, *others, *folders))


def _is_harmless(word: str) -> bool:
    """True for an override that cannot run code: of Hydra's own settings only numbers, and launchers and sweepers by name."""
    try:
        override = OverridesParser.create().parse_override(word)
    except HydraException:
        return False
    key, value = override.key_or_group, override.value()
    names = re.split(r"[./]", f"{key}.{override.package}")
    if "allow_targets" in names or word.startswith("-"):
        return False
    if "hydra" in names:
        number = re.fullmatch(r"hydra\.(sweeper|launcher)(\.\w+)+", key) and isinstance(value, int | float)
        return bool(number) or value in PLUGINS.get(key, ())
    # Without a dot it may choose an option: none whose name leads to another folder.
    return "." in key or isinstance(value, dict) or bool(OPTIONS.fullmatch(word.partition("=")[2]))
