"""`ramen train`: one run, or with -m the jobs of a sweep."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from ramen.cli.command import AUTO, CommandLine, parse, quoted, requested
from ramen.cli.plan import planned
from ramen.cli.sweep import Sweep, print_jobs
from ramen.config.check import NO_TEXT, is_text
from ramen.config.compose import located
from ramen.errors import ConfigError, DataError, RamenError, printable
from ramen.runs.folder import RunFolder


def main(arguments: Sequence[str]) -> int:
    """Train; the exit code. ConfigError names all that is wrong with the command, before anything is written."""
    command = parse(arguments)
    if command.prints:
        return print_config(command)
    try:
        with command.composer().open() as composer:
            if not command.multirun:
                config, values = composer.checked(command.overrides)
            sweeps = command.multirun or config.hydra.mode == RunMode.MULTIRUN
            plan = planned(command, composer) if sweeps else None
        return _sweep(command, *plan) if plan else _run(command, config, values)
    except OmegaConfBaseException as error:  # of a setting of Hydra's that refers to nothing
        raise ConfigError(located(error)) from error


def print_config(command: CommandLine) -> int:
    """Let Hydra print a config, help or completions."""
    try:
        command.run(lambda config: None)
    except Exception as error:  # Hydra raises ValueError and AssertionError, too
        with command.composer().open() as composer:
            raise ConfigError(*composer.problems(command.overrides, error)) from error
    return 0


def _run(command: CommandLine, config: DictConfig, values: dict[str, Any]) -> int:
    from ramen.build.run import run
    from ramen.runs import checkpoint
    from ramen.runs.lock import exclusive

    folder, resumed = Path(str(config.hydra.run.dir)), values["resume"]
    if (sweep := config.hydra.runtime.choices.get("sweep")) and resumed is None:  # a sweep's job goes on by itself
        raise ConfigError(f"sweep={sweep}: starts several runs; add -m")
    if not is_text(str(folder)):
        raise ConfigError(f"hydra.run.dir: {NO_TEXT}, got {str(folder)!r}")
    if resumed == AUTO:
        is_run = any(word.startswith("hydra.run.dir=") for word in command.overrides)
        base = folder if is_run else folder.parent.parent
        resumed = checkpoint.unfinished(base, values, is_run)
        outcome = f"continues {resumed}" if resumed else f"nothing to continue in {base}; starts anew"
        print(printable(f"resume=auto: {outcome}"), file=sys.stderr)
        command = command.with_overrides(f"resume={quoted(resumed)}" if resumed else "resume=null")
        folder = resumed or folder
    _refuse_other(folder, "run")
    errors: list[Exception] = []
    with exclusive(folder, wait=False) as free:
        if not free:
            hint = "wait for its end, or choose another hydra.run.dir"
            raise DataError(f"{folder}: another process is at work in it; {hint}")
        if resumed is None:
            checkpoint.refuse_used(folder)

        def task(config: DictConfig) -> None:
            try:
                run(requested(config))
            except Exception as error:  # Hydra would announce it in its own words
                errors.append(error)

        _launch(command, command.with_overrides(f"hydra.run.dir={quoted(folder)}"), task)
    if errors:
        raise errors[0]
    return 0


def _sweep(command: CommandLine, plan: CommandLine, folder: Path) -> int:
    _refuse_other(folder, "sweep")
    RunFolder(folder).remember(["-m", *command.overrides])
    sweep, stopped = Sweep(), False
    try:
        _launch(command, plan, sweep.job)
        sweep.settle()
    except SystemExit:  # a signal stopped a job, and no further one is to start
        stopped = True
    return 0 if print_jobs(folder, sweep.failures, sweep.counts) or stopped else 1


def _refuse_other(folder: Path, kind: str) -> None:
    """ConfigError for a run in the folder of a sweep, or a sweep in that of a run."""
    saved = RunFolder(folder).command()
    if saved is None:
        return
    present = "sweep" if saved[:1] == ["-m"] else "run"
    if present != kind:
        raise ConfigError(f"hydra.{kind}.dir: {folder} is the folder of a {present}; choose another")


def _launch(command: CommandLine, plan: CommandLine, task: Callable[[DictConfig], Any]) -> None:
    """Run `plan`, which composes. ConfigError for errors of Hydra about settings of its own that `command` gives."""
    try:
        plan.run(task)
    except (RamenError, OSError):
        raise
    except Exception as error:
        settings = [word for word in command.overrides if "hydra" in word.partition("=")[0]] or [*command.options]
        raise ConfigError(
            f"hydra: cannot run this command, got {located(error)}; given was {' '.join(settings)}"
        ) from error
