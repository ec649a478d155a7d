"""The command line: a run or the jobs of a sweep, and what is wrong with a command (ramen.config.diagnosis).

Imports no torch: --help and tab completion answer at once. Every problem of a command is told together, without a traceback,
with exit code 2; a job of a sweep that fails is recorded and does not stop the others (ramen.cli.sweep).
"""

import os
import re
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, flag_override
from omegaconf.errors import OmegaConfBaseException

from ramen.cli import sweep
from ramen.config import secret
from ramen.config.compose import choices, plain
from ramen.config.kinds import COMPOSITIONS
from ramen.config.registry import CONF
from ramen.errors import EXIT_CODE, ConfigError, RamenError, a_reader_may_leave
from ramen.runs.folder import ENDED, OVERRIDES, RunFolder

AUTO = "auto"
INTERRUPTED = 130  # what a shell reports of a process ended by Ctrl-C
BASIC = ["BasicLauncher", "BasicSweeper"]
_failure: list[Exception] = []  # of a single run; Hydra would announce it in its own words if it saw it
_failed_jobs: list[Path] = []  # sweeps' folders in which some job failed


def _job_folder(overrides: str, *, _root_: DictConfig) -> str:
    return sweep.job_folder(Path(str(_root_.hydra.sweep.dir)), overrides, plain(_root_))


OmegaConf.register_new_resolver("ramen.folder", sweep.folder_name, replace=True)
OmegaConf.register_new_resolver("ramen.job_folder", _job_folder, replace=True)


def main() -> None:
    """`train.py`: run the command of sys.argv and leave the process with its exit code."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors come here to be told, not printed by Hydra
    try:
        refuse_secrets(sys.argv[1:])
        words = with_resume([without_plus(word) for word in sys.argv[1:]])
        sys.argv[1:] = sorted(words, key=lambda word: word not in sweep.MULTIRUN)  # argparse wants it first
        with a_reader_may_leave():
            _hydra_main()
        if _failure:
            raise _failure[0]
    except (HydraException, OmegaConfBaseException) as error:
        from ramen.config.diagnosis import diagnose

        fail(diagnose(overrides_of(sys.argv), error))
    except (RamenError, OSError) as error:  # OSError: of the output folder, before a job has one
        fail(error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    if _failed_jobs:
        sys.exit(1)


def without_plus(word: str) -> str:
    """`+sweep=optimizers` as many Hydra projects want it; here these groups are in the defaults list, and take no plus."""
    return re.sub(rf"^[+](?=({'|'.join(COMPOSITIONS)})=)", "", word)


def refuse_secrets(words: list[str]) -> None:
    """ConfigError when a word of the command is a secret: Hydra saves the command before ramen sees its config."""
    pairs = (word.lstrip("+~").partition("=") for word in words)
    if found := secret.problems((key, value) for key, _, value in pairs):
        raise ConfigError(*found)


def fail(problem: str | Exception) -> None:
    """Tell what is wrong and end the process with exit code 2."""
    if isinstance(problem, OSError):
        problem = f"{problem.filename or 'output'}: {problem.strerror or problem}"
    print(problem, file=sys.stderr)
    sys.exit(EXIT_CODE)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def _hydra_main(cfg: DictConfig) -> float | None:
    return job(cfg)  # a function that a launcher can pickle by its name


def job(cfg: DictConfig) -> float | None:
    """One run, or one job of a sweep; the loss that a search minimises."""
    from ramen.build.run import Command, run

    context = HydraConfig.get()
    in_sweep, folder = context.mode == RunMode.MULTIRUN, Path(context.runtime.output_dir)
    number = context.job.num if in_sweep else None
    # Hydra's own launcher and sweeper go through a list, and can come back to a job that another process has.
    shared = [context.launcher._target_.split(".")[-1], context.sweeper._target_.split(".")[-1]] == BASIC
    try:
        command = Command(plain(cfg, context), folder, choices(context), list(context.overrides.task), number)
        summary = sweep.work(command, wait=not shared) if in_sweep else run(command)
    except Exception as error:
        if not in_sweep:
            _failure.append(error)
            return None
        summary = sweep.failure(folder, error)
    if summary is None:
        sweep.postpone(command)
        return None
    if summary["status"] == "failed":
        print(f"job {number} failed: {summary['error']}", file=sys.stderr)
    if in_sweep and summary["status"] == "stopped" and summary.get("error") in ("SIGINT", "SIGTERM"):
        sweep.tell(command.folder.parent)
        sys.exit(0)
    if context.sweeper._target_.endswith("BasicSweeper") or summary["status"] in ENDED:
        return sweep.objective(summary)
    # A search takes this for a trial without a result.
    raise RuntimeError(f"{summary['status']}: {summary.get('error')}")


def overrides_of(arguments: list[str]) -> list[str]:
    """The overrides among a process's arguments; another folder of config is one, too."""
    pairs = list(pairwise(arguments))  # what an option takes, as `--cfg job`, is no override
    taken = [word for before, word in pairs if before[:1] == "-" and before not in sweep.MULTIRUN and "=" not in word]
    own = [f"hydra.searchpath=['file://{word}']" for before, word in pairs if before in ("--config-dir", "-cd")]
    return own + [word for word in arguments[1:] if word[:1] != "-" and word not in taken]


def with_resume(words: list[str]) -> list[str]:
    """`resume=FOLDER` becomes the command of that run or sweep, in its folder: the same config, and what else is given."""
    given = [word for word in words if word.startswith("resume=")]
    if len({*given}) > 1:
        raise ConfigError(f"resume: goes on with one run or sweep, got {' '.join(given)}; leave out all but one")
    if not given or given[0] in ("resume=", "resume=null"):
        return words
    folder = Path(given[-1].removeprefix("resume=").strip("'\""))
    if sweep.MULTIRUN & set(words):
        raise ConfigError("resume: knows whether its folder is a run's or a sweep's; leave out -m")
    if str(folder) == AUTO:
        return words  # RunCallback looks for it, with the config at hand
    run = RunFolder(folder).overrides()
    jobs = RunFolder(folder).multirun() if run is None else None
    if run is None and jobs is None:
        raise ConfigError(f"resume: {folder} is not a run folder; it has no {OVERRIDES}")
    quoted = "'" + str(folder).replace("\\", "\\\\").replace("'", "\\'") + "'"
    rest = [word for word in words if word not in given]
    if run is not None:
        return [*_replayed(run), *rest, f"resume={quoted}", f"hydra.run.dir={quoted}"]
    return ["-m", *_replayed(jobs or []), *rest, f"hydra.sweep.dir={quoted}"]


def _replayed(words: list[str]) -> list[str]:
    own = ("resume=", "hydra.mode=", "hydra.sweep.dir=", "hydra.run.dir=")
    return [word for word in words if not word.startswith(own)]


def _name_by_what_varies(config: DictConfig, constant: list[str]) -> None:
    """Leave what all jobs share out of the names of their folders, by an override that Hydra hands to every job."""
    key = "hydra.job.config.override_dirname.exclude_keys"
    names = [*OmegaConf.select(config, key), *(name.lstrip("+~") for name in constant)]
    config.hydra.overrides.hydra.append(f"{key}=[{','.join(names)}]")


class RunCallback(Callback):
    """Before a single run writes anything: its folder is its own, and `resume=auto` has become a folder or nothing."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        try:  # Hydra only warns of a callback's exceptions
            self._on_run_start(config)
        except (RamenError, OSError) as error:
            fail(error)

    def _on_run_start(self, config: DictConfig) -> None:
        from ramen.config.check import NO_TEXT, flatten, is_text
        from ramen.runs import resume

        folder = Path(str(config.hydra.run.dir))
        chosen = OmegaConf.select(config, "hydra.runtime.choices.sweep")
        if chosen and config.get("resume") is None:  # a sweep's job goes on by itself
            raise ConfigError(
                f"sweep={chosen}: is several runs, which want -m; without it one would run, of the defaults"
            )
        if not is_text(str(folder)):
            raise ConfigError(f"hydra.run.dir: {NO_TEXT}, got {str(folder)!r}")
        written: Any = OmegaConf.to_container(config, resolve=False)  # by Hydra, as it stands here
        if found := secret.problems(flatten({key: value for key, value in written.items() if key != "hydra"}).items()):
            raise ConfigError(*found)
        if config.get("resume") == AUTO:
            given = any(str(word).startswith("hydra.run.dir=") for word in config.hydra.overrides.hydra)
            base = folder if given else folder.parent.parent
            before = resume.unfinished(base, plain(config), given)
            what = f"continues {before}" if before else f"nothing to continue in {base}; starts anew"
            print(f"resume=auto: {what}", file=sys.stderr)
            with flag_override(config, ["readonly", "struct"], [False, False]):
                config.resume = str(before) if before else None
                config.hydra.run.dir = str(before or folder)
            folder = before or folder
        self.lock = resume.claim(folder)  # until the process ends
        if config.get("resume") is None:
            resume.refuse_used(folder)
        else:
            with flag_override(config, ["readonly", "struct"], [False, False]):
                config.hydra.output_subdir = None  # mistyped words must not become the run's (RunFolder.remember)


class SweepCallback(Callback):
    """Checks every value of a sweep before its first job, and ends it with a table of all jobs."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        from ramen.config.check import NO_TEXT, check, is_text
        from ramen.config.compose import compose
        from ramen.config.diagnosis import explain, is_group, sweep_values

        if not is_text(str(config.hydra.sweep.dir)):
            fail(f"hydra.sweep.dir: {NO_TEXT}, got {str(config.hydra.sweep.dir)!r}")
        parser = OverridesParser.create()
        words = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
        words += list(config.hydra.overrides.task)
        by_key = {override.get_key_element(): override for override in parser.parse_overrides(words)}
        parsed = sorted(by_key.values(), key=lambda o: not is_group(o.input_line or ""))
        constant = [key for key, override in by_key.items() if not override.is_sweep_override()]
        if len(constant) < len(parsed):
            _name_by_what_varies(config, constant)
        first = [sweep_values(override)[0] for override in parsed]
        others = [(i, value) for i, override in enumerate(parsed) for value in sweep_values(override)[1:]]
        problems: dict[str, None] = {}
        for index, value in [(0, first[0] if first else ""), *others]:
            try:
                check(compose([*first[:index], *filter(None, [value]), *first[index + 1 :]]))
            except ConfigError as error:
                problems |= dict.fromkeys(error.problems)
            except (HydraException, OmegaConfBaseException) as error:
                if value in first:  # Hydra composes all jobs itself and the error comes to main
                    return
                problems[explain(value, error, first[:index])] = None
        if problems:
            fail("\n".join(problems))  # an exit, for Hydra only warns of a callback's exceptions

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        sweep.settle()
        folder = Path(str(config.hydra.sweep.dir))
        if not sweep.tell(folder):
            _failed_jobs.append(folder)
