"""`ramen train`: one run, or with -m the jobs of a sweep."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra.types import RunMode
from omegaconf import DictConfig

from ramen.cli.command import AUTO, CommandLine, parse, quoted
from ramen.cli.plan import planned
from ramen.cli.sweep import Sweep, asked_for
from ramen.config.compose import plain
from ramen.config.diagnosis import located
from ramen.errors import ConfigError, RamenError


def main(arguments: Sequence[str]) -> int:
    """Train; the exit code. ConfigError tells all that is wrong with the command, before anything is written."""
    command = parse(arguments)
    if command.prints:
        return print_config(command)
    with command.composer().open() as composer:
        config: Any = None if command.multirun else composer.compose(command.overrides)
        sweeps = config is None or config.hydra.mode == RunMode.MULTIRUN
        command, folder = planned(command, composer) if sweeps else (command, Path())
    return _sweep(command, folder) if sweeps else _run(command, config)


def print_config(command: CommandLine) -> int:
    """Let Hydra print a config, help or completions."""
    try:
        command.run(lambda config: None)
    except Exception as error:  # Hydra raises ValueError and AssertionError, too
        with command.composer().open() as composer:
            raise ConfigError(*composer.problems(command.overrides, error)) from error
    return 0


def _run(command: CommandLine, config: DictConfig) -> int:
    from ramen.build.run import run
    from ramen.config.check import NO_TEXT, check, is_text
    from ramen.runs import resume

    folder, values = Path(str(config.hydra.run.dir)), plain(config)
    check(values)
    goes_on = values["resume"]
    if (sweep := config.hydra.runtime.choices.get("sweep")) and goes_on is None:  # a sweep's job goes on by itself
        raise ConfigError(f"sweep={sweep}: starts several runs; add -m")
    if not is_text(str(folder)):
        raise ConfigError(f"hydra.run.dir: {NO_TEXT}, got {str(folder)!r}")
    if goes_on == AUTO:
        given = any(word.startswith("hydra.run.dir=") for word in command.overrides)
        base = folder if given else folder.parent.parent
        goes_on = resume.unfinished(base, values, given)
        what = f"continues {goes_on}" if goes_on else f"nothing to continue in {base}; starts anew"
        print(f"resume=auto: {what}", file=sys.stderr)
        command = command.with_overrides(f"resume={quoted(goes_on)}" if goes_on else "resume=null")
        folder = goes_on or folder
    lock = resume.claim(folder)
    if goes_on is None:
        resume.refuse_used(folder)
    else:  # a run keeps the words of its command until others are accepted (ramen.runs.resume.remember)
        command = command.with_overrides("hydra.output_subdir=null")
    errors: list[Exception] = []

    def task(config: DictConfig) -> None:
        try:
            run(asked_for(config))
        except Exception as error:  # Hydra would announce it in its own words
            errors.append(error)

    _launch(command.with_overrides(f"hydra.run.dir={quoted(folder)}"), task)
    lock.release()
    if errors:
        raise errors[0]
    return 0


def _sweep(command: CommandLine, folder: Path) -> int:
    from ramen.cli.table import print_jobs

    sweep, stopped = Sweep(), False
    try:
        _launch(command, sweep.job)
        sweep.settle()
    except SystemExit:  # a signal stopped a job, and no further one is to start
        stopped = True
    return 0 if print_jobs(folder, sweep.failures, sweep.counts) or stopped else 1


def _launch(command: CommandLine, task: Callable[[DictConfig], Any]) -> None:
    """Run a command that composes. ConfigError for what Hydra makes of settings of its own."""
    try:
        command.run(task)
    except (RamenError, OSError):
        raise
    except Exception as error:
        own = (
            "hydra.run.dir=",
            "hydra.sweep.dir=",
            "hydra.job.config.override_dirname.exclude_keys=",
        )  # of planned or _run
        words = [word for word in command.overrides if "hydra" in word.partition("=")[0] and not word.startswith(own)]
        raise ConfigError(
            f"hydra: cannot run this command, got {located(error)} of {' '.join(words) or command.options}"
        ) from error
