"""The jobs of a sweep: one folder a config, run once by whichever process comes first, and a table of them all.

A job's folder ends with the hash of its config, so a job finds its folder again whatever its number in the list: what is done
is not done again, what was cut short goes on from its checkpoint, what failed is tried again, and values added later run alone.
Who works in a folder holds its lock, which the system takes back however the process ends.
"""

import copy
import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ramen.errors import ConfigError, DataError
from ramen.runs.folder import ENDED, RunFolder

if TYPE_CHECKING:
    from ramen.build.run import Command

MULTIRUN = {"-m", "--multirun"}  # what makes a command a sweep
FOLDER_NAME_LENGTH = 120
HASH_DIGITS = 8  # of the config hash, in a folder's name
_failures: dict[Path, str] = {}  # of this process's jobs
_counts: Counter[str] = Counter()
# Jobs that another process had, and what turns to their log.
_postponed: list[tuple["Command", Callable[[], None]]] = []


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


def work(job: "Command", wait: bool) -> dict[str, Any] | None:
    """Run a job unless it is done, and return its summary. None: another process has it, and `wait` is false."""
    from ramen.build.run import run
    from ramen.runs.checkpoint import checkpoints
    from ramen.runs.lock import exclusive
    from ramen.runs.resume import summary

    with exclusive(job.folder, wait=wait) as held:
        if not held:
            return None
        _failures.pop(job.folder, None)
        before = summary(job.folder)
        if _done(job, before):
            _counts["done before"] += 1
            return before
        goes_on = bool(checkpoints(job.folder))
        _counts["continued" if goes_on else "tried again" if before else "run"] += 1
        return run(replace(job, config={**job.config, "resume": str(job.folder)}) if goes_on else job)


def failure(folder: Path, error: Exception) -> dict[str, Any]:
    """Note why a job failed; the others go on."""
    from ramen.build.failure import reason_of

    _failures[folder] = reason_of(error)
    return {"status": "failed", "error": _failures[folder]}


def postpone(job: "Command") -> None:
    """Leave a job to the process that has it; `settle` looks whether it got done."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.utils import configure_log

    context: Any = copy.deepcopy(HydraConfig.instance().cfg)
    _postponed.append((job, partial(configure_log, context.hydra.job_logging, context.hydra.verbose)))


def settle() -> None:
    """Wait for the jobs that other processes had, and take over those whose process went away."""
    while _postponed:
        job, turn_to_its_log = _postponed.pop(0)
        turn_to_its_log()
        try:
            work(job, wait=True)
        except Exception as error:
            failure(job.folder, error)


def objective(summary: dict[str, Any]) -> float:
    """What a search minimises, in nats a token: the final validation loss, infinite for a run that diverged, else NaN."""
    loss = summary.get("final_val_loss") if summary["status"] == "finished" else None
    return math.inf if summary["status"] == "diverged" else math.nan if loss is None else loss


def tell(sweep: Path) -> bool:
    """Print a table of all jobs of a sweep's folder on stderr, best first. Whether none failed."""
    from rich.console import Console
    from rich.table import Table

    console = Console(stderr=True, markup=False)
    if not console.is_terminal:
        console = Console(stderr=True, markup=False, width=200)  # a log has no edge to wrap at
    jobs = [_row(path) for path in sorted(sweep.iterdir()) if (path / ".hydra").is_dir()] if sweep.is_dir() else []
    common = set.intersection(*(set(job["overrides"]) for job in jobs)) if len(jobs) > 1 else set()
    table = Table("varies", "status", "validation loss", "tokens", "tokens/s", "reason", box=None, pad_edge=False)
    for job in sorted(jobs, key=lambda j: (j.get("final_val_loss") is None, j.get("final_val_loss"))):
        loss, tokens, rate = (job.get(key) for key in ("final_val_loss", "tokens", "tokens_per_second"))
        table.add_row(
            " ".join(word for word in job["overrides"] if word not in common and not _silent(word)),
            job["status"],
            "" if loss is None else f"{loss:.4f}",
            "" if tokens is None else f"{tokens:,}",
            "" if rate is None else f"{rate:,.0f}",
            (job.get("error") or "").partition("\n")[0],
        )
    console.print(table)
    told = [f"{len(jobs)} jobs: " + ", ".join(f"{n} {what}" for what, n in sorted(_counts.items()))] if _counts else []
    if any(job["status"] in ("failed", "stopped", "unfinished") for job in jobs):
        told.append(f"to continue: python train.py resume={sweep}")
    for line in [*told, f"compare: python scripts/compare.py {sweep}"]:
        console.print(line, highlight=False, soft_wrap=True)
    return all(job["status"] != "failed" for job in jobs)


def _done(job: "Command", summary: dict[str, Any]) -> bool:
    """Whether there is nothing left to do. ConfigError when the folder holds another computation."""
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


def _row(folder: Path) -> dict[str, Any]:
    from ramen.runs.lock import is_locked
    from ramen.runs.resume import summary

    found = summary(folder) or {"status": "unfinished", "error": "killed before its end"}
    if found["status"] not in ENDED and is_locked(folder):
        found = {"status": "running", "error": None, "overrides": found.get("overrides")}
    if folder in _failures:
        found |= {"status": "failed", "error": _failures[folder]}
    return found | {"overrides": found.get("overrides") or _overrides(folder)}


def _silent(word: str) -> bool:
    """Whether an override says nothing of what is computed."""
    from ramen.config.check import computed

    key = word.lstrip("+~").partition("=")[0]
    return key == "sweep" or not computed(key)


def _overrides(folder: Path) -> list[str]:
    try:
        return RunFolder(folder).overrides() or [folder.name]
    except DataError:
        return [folder.name]
