"""train.py as a process: the time until its first step is done, and between the jobs of a sweep."""

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.context import BenchmarkContext, Row, Workload
from ramen.errors import ConfigError

TRAIN = Path(__file__).resolve().parents[1] / "train.py"
JOBS = 4
ONE_STEP = "trainer.steps=1", "trainer.checkpoint_at_end=false", "data.validation_tokens=256"


def train(*overrides: str, **environment: str) -> None:
    """Run train.py as a new process. ConfigError when it fails."""
    command = [sys.executable, str(TRAIN), *overrides]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(f"train.py ended with exit code {done.returncode}: {done.stderr.strip()[-500:]}")


def startup(work: Workload, context: BenchmarkContext) -> list[Row]:
    """In wall seconds: its help, a run of one step, and the same where kernels must be compiled."""
    with tempfile.TemporaryDirectory() as folder:
        numbers = itertools.count()

        def run(**environment: str) -> None:
            train(*work.overrides, *ONE_STEP, f"hydra.run.dir='{folder}/{next(numbers)}'", **environment)

        tasks = {
            "train.py --help": lambda: train("--help"),
            "one step": run,
            "one step, first time": lambda: run(XDG_CACHE_HOME=f"{folder}/cache {next(numbers)}"),
        }
        run()  # prepares the data, if need be
        seconds: dict[str, list[float]] = {name: [] for name in tasks}
        for _, (name, task) in itertools.product(range(min(work.rounds, 3)), tasks.items()):
            started = time.perf_counter()
            task()
            seconds[name].append(time.perf_counter() - started)
    return [{"name": name, "seconds": statistics.median(times)} for name, times in seconds.items()]


def busy_machine(work: Workload, context: BenchmarkContext) -> list[Row]:
    """Tokens a second of runs, alone and beside one process that never waits, by how OpenMP's threads wait for one another."""
    waiting = {
        "GNU's own spinning": {"GOMP_SPINCOUNT": "300000"},
        "ramen's": {},
        "none (OMP_WAIT_POLICY=PASSIVE)": {"OMP_WAIT_POLICY": "PASSIVE"},
    }
    rates: dict[str, dict[str, list[float]]] = {name: {"alone": [], "beside": []} for name in waiting}
    with tempfile.TemporaryDirectory() as folder:
        numbers = itertools.count()

        def rate(environment: dict[str, str]) -> float:
            run = Path(folder, str(next(numbers)))
            train(*work.overrides, "trainer.steps=30", f"hydra.run.dir='{run}'", **environment)
            return json.loads((run / "summary.json").read_text())["tokens_per_second"]

        for _, name in itertools.product(range(work.rounds), waiting):
            rates[name]["alone"].append(rate(waiting[name]))
            other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            try:
                rates[name]["beside"].append(rate(waiting[name]))
            finally:
                other.kill()
    medians = {name: {where: statistics.median(of) for where, of in both.items()} for name, both in rates.items()}
    return [
        {"name": name, "tokens_per_second_alone": both["alone"], "tokens_per_second_beside_one": both["beside"]}
        for name, both in medians.items()
    ]


def sweep(work: Workload, context: BenchmarkContext) -> list[Row]:
    """train.py -m with seeds: from the summary of a job to the first step of the next, its data, model and compiling included."""
    with tempfile.TemporaryDirectory() as folder:
        seeds = ",".join(map(str, range(JOBS)))
        train("-m", *work.overrides, f"seed={seeds}", *ONE_STEP, f"hydra.sweep.dir={folder}")
        jobs = []
        for path in Path(folder).glob("*/summary.json"):
            summary, records = json.loads(path.read_text()), path.with_name("metrics.jsonl")
            # Of the one step, when its record was written.
            spent = summary["train_seconds"] + summary["evaluation_seconds"]
            jobs.append((records.stat().st_mtime - spent, path.stat().st_mtime, summary["compile_seconds"]))
    jobs.sort()
    gaps = [later[0] - sooner[1] for sooner, later in itertools.pairwise(jobs)]
    return [
        {
            "name": "jobs",
            "seconds_between_jobs": statistics.median(gaps),
            "seconds_to_second_job": gaps[0],
            "compile_seconds_first": jobs[0][2],
            "compile_seconds_later": max(job[2] for job in jobs[1:]),
        }
    ]
