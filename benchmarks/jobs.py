"""The jobs of a sweep: the time from the end of one to the first step of the next, in one process."""

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.machine import Machine, Row, Workload
from ramen.config.registry import CONF
from ramen.errors import ConfigError

JOBS = 4
ONE_STEP = "trainer.steps=1", "trainer.checkpoint_at_end=false", "data.validation_tokens=256"


def train(*words: str, **environment: str) -> None:
    """Run train.py as a new process. ConfigError when it fails."""
    command = [sys.executable, str(CONF.parent / "train.py"), *words]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    if done.returncode:
        door = "train.py -m" if "-m" in words else "train.py"
        raise ConfigError(f"{door} ended with exit code {done.returncode}: {done.stderr.strip()[-500:]}")


def sweep(work: Workload, here: Machine) -> list[Row]:
    """train.py -m with seeds: from the summary of a job to the first step of the next, its data, model and compiling included."""
    with tempfile.TemporaryDirectory() as folder:
        seeds = ",".join(map(str, range(JOBS)))
        train("-m", *work.overrides, f"seed={seeds}", *ONE_STEP, f"hydra.sweep.dir={folder}")
        found = []
        for path in Path(folder).glob("*/summary.json"):
            summary, records = json.loads(path.read_text()), path.with_name("metrics.jsonl")
            # Of the one step, when its record was written.
            spent = summary["train_seconds"] + summary["evaluation_seconds"]
            found.append((records.stat().st_mtime - spent, path.stat().st_mtime, summary["compile_seconds"]))
    found.sort()
    gaps = [later[0] - sooner[1] for sooner, later in itertools.pairwise(found)]
    return [
        {
            "name": "jobs",
            "seconds_between_jobs": statistics.median(gaps),
            "seconds_to_second_job": gaps[0],
            "compile_seconds_first": found[0][2],
            "compile_seconds_later": max(job[2] for job in found[1:]),
        }
    ]
