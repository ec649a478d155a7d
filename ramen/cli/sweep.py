"""The jobs of a sweep: one folder a config, run once by whichever process comes first, and a table of them all.

A job's folder ends with the hash of its config, so a job finds its folder again whatever its number in the list: what is done
is not done again, what was cut short goes on from its checkpoint, what failed is tried again, and values added later run alone.
Who works in a folder holds its lock, which the system takes back however the process ends.
"""

import copy
import hashlib
import math
import re
import sys
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import configure_log
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from ramen.config.compose import choices, plain
from ramen.errors import ConfigError, printable
from ramen.runs.folder import ENDED, RunFolder
from ramen.training.stop import STOP_SIGNALS

if TYPE_CHECKING:
    from ramen.build.run import Command

FOLDER_NAME_LENGTH = 120
HASH_DIGITS = 8  # of the config hash, in a folder's name
BASIC = ["BasicLauncher", "BasicSweeper"]


def folder_name(overrides: str, end: str = "") -> str:
    """What varies, as the name of one folder: no separators, no leading dot, and short enough for every file system."""
    name = re.sub(r"^\.+|[^\w.,=@+-]+", "_", overrides, flags=re.ASCII) or "default"
    if len(name) + len(end) > FOLDER_NAME_LENGTH:
        end = end or f"-{hashlib.sha256(overrides.encode()).hexdigest()[:8]}"
    return name[: FOLDER_NAME_LENGTH - len(end)] + end


def job_folder(sweep: Path, overrides: str, config: dict[str, Any]) -> str:
    """The name of a job's folder in its sweep: the one that its config already has, under whatever overrides, or a new one."""
    from ramen.config.check import config_hash

    end = f"-{config_hash(config)[:HASH_DIGITS]}"
    return min((path.name for path in sweep.glob(f"*{end}")), default=folder_name(overrides, end))


def _job_folder(overrides: str, *, _root_: DictConfig) -> str:
    return job_folder(Path(str(_root_.hydra.sweep.dir)), overrides, plain(_root_))


OmegaConf.register_new_resolver(
    "ramen.folder", folder_name, replace=True
)  # conf/config.yaml names folders by these two
OmegaConf.register_new_resolver("ramen.job_folder", _job_folder, replace=True)


def asked_for(config: DictConfig) -> "Command":
    """What Hydra hands to its task, as ramen.build.run takes it."""
    from ramen.build.run import Command

    context = HydraConfig.get()
    number = context.job.num if context.mode == RunMode.MULTIRUN else None
    folder, words = Path(context.runtime.output_dir), list(context.overrides.task)
    return Command(plain(config, context), folder, choices(context), words, number)


@dataclass
class Sweep:
    """What one process does of a sweep. Hydra's launchers take `job`; those of other processes get a copy."""

    failures: dict[Path, str] = field(default_factory=dict)  # job's folder -> why
    counts: Counter[str] = field(default_factory=Counter)
    postponed: list[tuple["Command", Any]] = field(
        default_factory=list
    )  # jobs that another process has, and Hydra's config

    def job(self, config: DictConfig) -> float | None:
        """One job; the loss that a search minimises."""
        context = HydraConfig.get()
        folder = Path(context.runtime.output_dir)
        # Hydra's own launcher and sweeper go through a list, and can come back to a job that another process has.
        listed = [context.launcher._target_.split(".")[-1], context.sweeper._target_.split(".")[-1]] == BASIC
        try:
            command = asked_for(config)
            summary = self.work(command, wait=not listed)
        except Exception as error:
            summary = self.failed(folder, error)
        if summary is None:
            self.postponed.append((command, copy.deepcopy(HydraConfig.instance().cfg)))
            return None
        if summary["status"] == "failed":
            print(f"job {context.job.num} failed: {printable(summary['error'])}", file=sys.stderr)
        if summary["status"] == "stopped" and summary.get("error") in STOP_SIGNALS:
            sys.exit(0)  # no further job
        if listed or context.sweeper._target_.endswith("BasicSweeper") or summary["status"] in ENDED:
            return objective(summary)
        raise RuntimeError(
            f"{summary['status']}: {summary.get('error')}"
        )  # a search takes this for a trial without a result

    def work(self, job: "Command", wait: bool) -> dict[str, Any] | None:
        """Run a job unless it is done, and return its summary. None: another process has it, and `wait` is false."""
        from ramen.build.run import run
        from ramen.runs.checkpoint import checkpoints
        from ramen.runs.lock import exclusive

        with exclusive(job.folder, wait=wait) as held:
            if not held:
                return None
            self.failures.pop(job.folder, None)
            before = RunFolder(job.folder).ending()
            if _done(job, before):
                self.counts["done before"] += 1
                return before
            goes_on = bool(checkpoints(job.folder))
            self.counts["continued" if goes_on else "tried again" if before else "run"] += 1
            return run(replace(job, config={**job.config, "resume": str(job.folder)}) if goes_on else job)

    def failed(self, folder: Path, error: Exception) -> dict[str, Any]:
        """Note why a job failed; the others go on."""
        from ramen.build.failure import reason_of

        self.failures[folder] = reason_of(error)
        return {"status": "failed", "error": self.failures[folder]}

    def settle(self) -> None:
        """Wait for the jobs that other processes had, and take over those whose process went away."""
        while self.postponed:
            job, context = self.postponed.pop(0)
            configure_log(context.hydra.job_logging, context.hydra.verbose)
            try:
                self.work(job, wait=True)
            except Exception as error:
                self.failed(job.folder, error)


def objective(summary: dict[str, Any]) -> float:
    """What a search minimises, in nats a token: the final validation loss, infinite for a run that diverged, else NaN."""
    loss = summary.get("final_val_loss") if summary["status"] == "finished" else None
    return math.inf if summary["status"] == "diverged" else math.nan if loss is None else loss


def _done(job: "Command", summary: dict[str, Any]) -> bool:
    """True when there is nothing left to do. ConfigError when the folder holds another computation."""
    from ramen.config.check import config_hash

    if not summary:
        return False
    wanted = config_hash(job.config)
    if summary.get("config_hash") != wanted:
        raise ConfigError(
            f"hydra.sweep: {job.folder} holds a run of another config, got hash {summary.get('config_hash')}, this job's is"
            f" {wanted}; choose another hydra.sweep.dir"
        )
    stop = job.config["trainer"].get("stop_after_steps")
    stopped_as_asked = summary["status"] == "stopped" and stop is not None and summary.get("steps", 0) >= stop
    return summary["status"] in ENDED or stopped_as_asked
