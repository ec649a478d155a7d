"""The table of a sweep's jobs, best first."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ramen.cli.sweep import HASH_DIGITS
from ramen.config.check import computed
from ramen.config.diagnosis import key_of
from ramen.errors import DataError, printable
from ramen.runs.folder import CONFIG, ENDED, RunFolder
from ramen.runs.lock import is_locked

JOB = re.compile(rf"-[0-9a-f]{{{HASH_DIGITS}}}$")  # the name of a job's folder (ramen.cli.sweep.job_folder)


def print_jobs(sweep: Path, failures: Mapping[Path, str], counts: Mapping[str, int]) -> bool:
    """Print all jobs of a sweep's folder on stderr, those of other processes too. False when one of them failed."""
    console = Console(stderr=True, markup=False)
    if not console.is_terminal:
        console = Console(stderr=True, markup=False, width=200)  # a log has no edge to wrap at
    folders = sorted(path for path in sweep.glob("*") if JOB.search(path.name) or (path / CONFIG).is_file())
    jobs = [_job(path, failures) for path in folders]
    common = set.intersection(*(set(job["overrides"]) for job in jobs)) if len(jobs) > 1 else set()
    table = Table("varies", "status", "validation loss", "tokens", "tokens/s", "reason", box=None, pad_edge=False)
    for job in sorted(jobs, key=lambda j: (j.get("final_val_loss") is None, j.get("final_val_loss"))):
        loss, tokens, rate = (job.get(key) for key in ("final_val_loss", "tokens", "tokens_per_second"))
        table.add_row(
            printable(" ".join(word for word in job["overrides"] if word not in common and _changes_result(word))),
            job["status"],
            "" if loss is None else f"{loss:.4f}",
            "" if tokens is None else f"{tokens:,}",
            "" if rate is None else f"{rate:,.0f}",
            printable((job.get("error") or "").partition("\n")[0]),
        )
    console.print(table)
    lines = [f"{len(jobs)} jobs: " + ", ".join(f"{n} {what}" for what, n in sorted(counts.items()))] if counts else []
    if any(job["status"] in ("failed", "stopped", "unfinished") for job in jobs):
        lines.append(f"to continue: ramen train resume={sweep}")
    for line in [*lines, f"compare: ramen compare {sweep}"]:
        console.print(line, highlight=False, soft_wrap=True)
    return not failures and all(job["status"] != "failed" for job in jobs)


def _job(folder: Path, failures: Mapping[Path, str]) -> dict[str, Any]:
    job = RunFolder(folder).ending() or {"status": "unfinished", "error": "killed before its end"}
    if job["status"] not in ENDED and is_locked(folder):
        job = {"status": "running", "error": None, "overrides": job.get("overrides")}
    if reason := failures.get(folder.absolute()):
        job |= {"status": "failed", "error": reason}
    return job | {"overrides": job.get("overrides") or _overrides(folder)}


def _changes_result(word: str) -> bool:
    return key_of(word) != "sweep" and computed(key_of(word))


def _overrides(folder: Path) -> list[str]:
    try:
        return RunFolder(folder).command() or [folder.name]
    except DataError:
        return [folder.name]
