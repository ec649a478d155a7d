"""What is measured, where, and by which clock.

What is compared is timed in turn, round after round, so that a noisy machine slows all of it alike; a ratio is the median of the
rounds' own ratios. On one CPU thread the clock counts the process's CPU time, which other processes do not disturb.
"""

import contextlib
import ctypes
import gc
import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from ramen.config.check import check
from ramen.config.compose import compose
from ramen.errors import ConfigError

Row = dict[str, Any]  # one line of a section: its name, and figures with their units in the keys


@dataclass(frozen=True)
class Workload:
    """What is measured: a run's config, and the sizes that a config does not have."""

    overrides: tuple[str, ...] = ()
    vocabulary: int | None = None  # None: 2,048 for a model, 50,304 for the head alone
    head_tokens: int = 2048
    matrices: tuple[int, int, int] = (24, 1024, 256)  # number, rows, columns
    rounds: int = 5
    loader_gigabytes: float = 10.0  # of sparse shards

    def config(self, *more: str) -> dict[str, Any]:
        """The checked config."""
        config = compose([*self.overrides, *more])
        check(config)
        return config


@dataclass(frozen=True)
class Machine:
    """Where it is measured."""

    device: torch.device
    precision: torch.dtype

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32)

    def seconds(self, task: "Task") -> float:
        """Time of one call."""
        if isinstance(task, Elsewhere):
            return task.ask("seconds")
        alone = self.device.type == "cpu" and torch.get_num_threads() == 1
        clock = time.process_time if alone else time.perf_counter
        started = clock()
        task()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return clock() - started

    def rounds(self, tasks: "Mapping[str, Task]", count: int) -> dict[str, list[float]]:
        """Seconds of every task in every round, in turn; two rounds before warm up and do not count."""
        found: dict[str, list[float]] = {name: [] for name in tasks}
        for _ in range(count + 2):
            for name, task in tasks.items():
                found[name].append(self.seconds(task))
        return {name: seconds[2:] for name, seconds in found.items()}

    def peak_megabytes(self, task: "Task") -> float | None:
        """Memory a call takes at its peak, beyond what was held before; None where that cannot be seen."""
        if isinstance(task, Elsewhere):
            return task.ask("peak_megabytes")
        gc.collect()
        if self.device.type == "cuda":
            before = torch.cuda.memory_allocated(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            task()
            return (torch.cuda.max_memory_allocated(self.device) - before) / 1e6
        try:
            ctypes.CDLL(None).malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
            held = process_kilobytes("VmRSS")
            task()
            return (process_kilobytes("VmHWM") - held) / 1e3
        except (OSError, AttributeError):
            return None


class Elsewhere:
    """A task in a process of its own, which knows torch's settings alone: build(here, *arguments) makes it there."""

    def __init__(self, here: Machine, build: Callable[..., Callable[[], object]], *arguments: Any):
        spawning = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawning.Pipe()
        told = (theirs, torch.get_num_threads(), here, build, arguments)
        self._process = spawning.Process(target=_serve, args=told, daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, measure: Literal["seconds", "peak_megabytes"]) -> Any:
        """That measure of one call of the task there. ConfigError when the process ended."""
        try:
            self._pipe.send(measure)
            return self._pipe.recv()
        except (EOFError, OSError) as error:
            self._process.join()
            raise ConfigError(
                f"the process of what is measured ended with exit code {self._process.exitcode}"
            ) from error

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join()


Task = Callable[[], object] | Elsewhere


def _serve(pipe: Any, threads: int, here: Machine, build: Callable[..., Callable[[], object]], arguments: Any) -> None:
    torch.set_num_threads(threads)
    task = build(here, *arguments)
    with contextlib.suppress(EOFError):  # nobody asks any more
        while True:
            pipe.send(getattr(here, pipe.recv())(task))


def ratio(seconds: list[float], base: list[float]) -> float:
    """The median of the rounds' own ratios."""
    return statistics.median(a / b for a, b in zip(seconds, base, strict=True))


def process_kilobytes(key: str) -> int:
    """A figure of /proc/self/status. OSError where there is none."""
    status_file = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status_file.splitlines() if line.startswith(key + ":")))
