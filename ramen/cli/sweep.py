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
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import configure_log
from omegaconf import DictConfig, OmegaConf

from ramen.cli.command import requested
from ramen.config.check import computed, config_hash
from ramen.config.compose import key_of, plain
from ramen.errors import ConfigError, DataError, printable
from ramen.runs.folder import CONFIG, ENDED, RunFolder
from ramen.training.stop import STOP_SIGNALS

if TYPE_CHECKING:
    from ramen.build.run import Command

FOLDER_NAME_LENGTH = 120
HASH_DIGITS = 8  # of the config hash, in a folder's name
JOB = re.compile(rf"-[0-9a-f]{{{HASH_DIGITS}}}$")  # the name of a job's folder
BASIC = ["BasicLauncher", "BasicSweeper"]


def folder_name(overrides: str, end: str = "") -> str:
    """The varying overrides as the name of one folder: no separators, no leading dot, short enough for every file system."""
    name = re.sub(r"^\.+|[^\w.,=@+-]+", "_", overrides, flags=re.ASCII) or "default"
    if len(name) + len(end) > FOLDER_NAME_LENGTH:
        end = end or f"-{hashlib.sha256(overrides.encode()).hexdigest()[:8]}"
    return name[: FOLDER_NAME_LENGTH - len(end)] + end


def job_folder(sweep: Path, overrides: str, config: dict[str, Any]) -> str:
    """The name of a job's folder in its sweep: the one that its config already has, under whatever overrides, or a new one."""
    end = f"-{config_hash(config)[:HASH_DIGITS]}"
    return min((path.name for path in sweep.glob(f"*{end}")), default=folder_name(overrides, end))


def _job_folder(overrides: str, *, _root_: DictConfig) -> str:
    return job_folder(Path(str(_root_.hydra.sweep.dir)), overrides, plain(_root_))


# conf/config.yaml names folders by these two.
OmegaConf.register_new_resolver("ramen.folder", folder_name, replace=True)
OmegaConf.register_new_resolver("ramen.job_folder", _job_folder, replace=True)


@dataclass
class Sweep:
    """The work of one process on a sweep. Hydra's launchers take `job`; those of other processes get a copy."""

    failures: dict[Path, str] = field(default_factory=dict)  # job's folder -> why
    counts: Counter[str] = field(default_factory=Counter)
    # Jobs that another process has, and Hydra's config.
    postponed: list[tuple["Command", Any]] = field(default_factory=list)

    def job(self, config: DictConfig) -> float | None:
        """One job; the loss that a search minimises."""
        context = HydraConfig.get()
        # Hydra's own launcher and sweeper go through a list, and can come back to a job that another process has.
        listed = [context.launcher._target_.split(".")[-1], context.sweeper._target_.split(".")[-1]] == BASIC
        try:
            command = requested(config)
            summary = self.work(command, wait=not listed)
        except Exception as error:
            summary = self.failed(Path(context.runtime.output_dir), error)
        if summary is None:
            self.postponed.append((command, copy.deepcopy(HydraConfig.instance().cfg)))
            return None
        if summary["status"] == "failed":
            print(f"job {context.job.num} failed: {printable(summary['error'])}", file=sys.stderr)
        if summary["status"] == "stopped" and summary.get("error") in STOP_SIGNALS:
            sys.exit(0)  # no further job
        if listed or context.sweeper._target_.endswith("BasicSweeper") or summary["status"] in ENDED:
            return objective(summary)
        # A search takes an error for a trial without a result.
        raise RuntimeError(f"{summary['status']}: {summary.get('error')}")

    def work(self, job: "Command", wait: bool) -> dict[str, Any] | None:
        """Run a job unless it is done, and return its summary. None: another process has it, and `wait` is false."""
        from ramen.build.run import run
        from ramen.runs.checkpoint import checkpoints
        from ramen.runs.lock import exclusive

        with exclusive(job.folder, wait=wait) as free:
            if not free:
                return None
            self.failures.pop(job.folder, None)
            before = RunFolder(job.folder).ending()
            if before and _done(job, before):
                self.counts["done before"] += 1
                return before
            if checkpoints(job.folder):
                self.counts["continued"] += 1
                return run(replace(job, config={**job.config, "resume": str(job.folder)}))
            self.counts["tried again" if before else "run"] += 1
            return run(job)

    def failed(self, folder: Path, error: Exception) -> dict[str, Any]:
        """Note why a job failed; the others go on."""
        from ramen.build.summary import reason_of

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
    """The number a search minimises, in nats a token: the final validation loss, infinite for a run that diverged, else NaN."""
    loss = summary.get("final_val_loss") if summary["status"] == "finished" else None
    return math.inf if summary["status"] == "diverged" else math.nan if loss is None else loss


def _done(job: "Command", summary: dict[str, Any]) -> bool:
    """True when nothing is left to do. ConfigError when the folder holds another computation."""
    digest = config_hash(job.config)
    if summary.get("config_hash") != digest:
        raise ConfigError(
            f"hydra.sweep: {job.folder} holds a run of another config, got hash {summary.get('config_hash')}, this job's is"
            f" {digest}; choose another hydra.sweep.dir"
        )
    stop = job.config["trainer"].get("stop_after_steps")
    stopped_as_asked = summary["status"] == "stopped" and stop is not None and summary.get("steps", 0) >= stop
    return summary["status"] in ENDED or stopped_as_asked


def print_jobs(sweep: Path, failures: Mapping[Path, str], counts: Mapping[str, int]) -> bool:
    """Print all jobs of a sweep's folder on stderr, best first, those of other processes too. False when one of them failed."""
    from rich.console import Console
    from rich.table import Table

    folders = sorted(path for path in sweep.glob("*") if JOB.search(path.name) or (path / CONFIG).is_file())
    jobs = [_job(path, failures) for path in folders]
    common = set.intersection(*(set(job["overrides"]) for job in jobs)) if len(jobs) > 1 else set()
    table = Table("varies", "status", "validation loss", "tokens", "tokens/s", "reason", box=None, pad_edge=False)
    for job in sorted(jobs, key=lambda j: (j.get("final_val_loss") is None, j.get("final_val_loss"))):
        varies = [word for word in job["overrides"] if word not in common and key_of(word) != "sweep"]
        loss, tokens, rate = (job.get(key) for key in ("final_val_loss", "tokens", "tokens_per_second"))
        table.add_row(
            printable(" ".join(word for word in varies if computed(key_of(word)))),
            job["status"],
            "" if loss is None else f"{loss:.4f}",
            "" if tokens is None else f"{tokens:,}",
            "" if rate is None else f"{rate:,.0f}",
            printable((job.get("error") or "").partition("\n")[0]),
        )
    # A log has no edge to wrap at.
    console = Console(stderr=True, markup=False, width=None if sys.stderr.isatty() else 200)
    console.print(table)
    lines = [f"{len(jobs)} jobs: " + ", ".join(f"{n} {what}" for what, n in sorted(counts.items()))] if counts else []
    if any(job["status"] in ("failed", "stopped", "unfinished") for job in jobs):
        lines.append(f"to continue: ramen train resume={sweep}")
    for line in [*lines, f"compare: ramen compare {sweep}"]:
        console.print(line, highlight=False, soft_wrap=True)
    return not failures and all(job["status"] != "failed" for job in jobs)


def _job(folder: Path, failures: Mapping[Path, str]) -> dict[str, Any]:
    from ramen.runs.lock import is_locked

    job = RunFolder(folder).ending() or {"status": "unfinished", "error": "killed before its end"}
    if job["status"] not in ENDED and is_locked(folder):
        job = {"status": "running", "overrides": job.get("overrides")}
    if reason := failures.get(folder.absolute()):
        job |= {"status": "failed", "error": reason}
    if not job.get("overrides"):
        try:
            job["overrides"] = RunFolder(folder).command() or [folder.name]
        except DataError:
            job["overrides"] = [folder.name]
    return job
