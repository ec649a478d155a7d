"""Tasks to measure, and the device, the clock and the process that measure them.

What is compared is timed in turn, round after round, so that a noisy machine slows all of it alike; a ratio is the median of the
rounds' own ratios. On one CPU thread the clock counts the process's CPU time, which other processes do not disturb.
"""

import gc
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch

from ramen.config.check import check
from ramen.config.compose import compose
from ramen.device import PeakMemory
from ramen.errors import ConfigError
from ramen.kernels import prepare_memory

Row = dict[str, Any]  # one line of a section: its name, and figures with their units in the keys
Task = Callable[[], object]
QUEUED = 4  # calls between two looks at the clock on CUDA: a run does not wait for each


@dataclass(frozen=True)
class Workload:
    """A run's config, and the sizes that a config does not have."""

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
class BenchmarkContext:
    """Where something is measured."""

    device: torch.device
    precision: torch.dtype

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32)

    def seconds(self, task: Task) -> float:
        """Time of one call."""
        if isinstance(task, SubprocessTask):
            return task.measure("seconds")
        on_cuda = self.device.type == "cuda"
        calls = QUEUED if on_cuda else 1
        clock = time.process_time if not on_cuda and torch.get_num_threads() == 1 else time.perf_counter
        started = clock()
        for _ in range(calls):
            task()
        if on_cuda:
            torch.cuda.synchronize(self.device)
        return (clock() - started) / calls

    def rounds(self, tasks: Mapping[str, Task], count: int) -> dict[str, list[float]]:
        """Seconds of every task in every round, in turn; two rounds before warm up and do not count."""
        seconds: dict[str, list[float]] = {name: [] for name in tasks}
        for _ in range(2 + count):
            for name, task in tasks.items():
                seconds[name].append(self.seconds(task))
        return {name: rounds[2:] for name, rounds in seconds.items()}

    def compare(
        self, tasks: Mapping[str, Task], tokens: Mapping[str, int], count: int, base: str, base_name: str
    ) -> list[Row]:
        """A row for each task of so many tokens a call, against the one named `base`, timed in turn."""
        times = self.rounds(tasks, count)
        per_token = {name: [s / tokens[name] for s in seconds] for name, seconds in times.items()}
        return [
            {
                "name": name,
                "milliseconds": statistics.median(times[name]) * 1e3,
                "tokens_per_second": 1 / statistics.median(per_token[name]),
                f"times_faster_than_{base_name}": ratio(per_token[base], per_token[name]),
                "peak_megabytes": self.peak_megabytes(task),
            }
            for name, task in tasks.items()
        ]

    def peak_megabytes(self, task: Task) -> float | None:
        """Memory a call takes at its peak, beyond what was there before; None where that cannot be seen."""
        if isinstance(task, SubprocessTask):
            return task.measure("peak_megabytes")
        gc.collect()
        before = torch.cuda.memory_allocated(self.device) if self.device.type == "cuda" else 0
        peak = PeakMemory(self.device)
        prepare_memory(self.device)  # again: what was free went back to the system
        task()
        most = peak.bytes()
        return None if most is None else (most - before) / 1e6


class SubprocessTask:
    """A task in a process that knows torch's settings alone: `build(context, *arguments)` makes it there."""

    def __init__(self, context: BenchmarkContext, build: Callable[..., Task], *arguments: Any):
        spawning = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawning.Pipe()
        task = (theirs, torch.get_num_threads(), context, build, arguments)
        self._process = spawning.Process(target=_measure, args=task, daemon=True)
        self._process.start()
        theirs.close()

    def __call__(self) -> None:
        self.measure("seconds")

    def measure(self, what: str) -> Any:
        """`seconds` or `peak_megabytes` of one call of the task there. ConfigError when the process ended."""
        try:
            self._pipe.send(what)
            return self._pipe.recv()
        except (EOFError, OSError) as error:
            self._process.join()
            raise ConfigError(f"a measured process ended with exit code {self._process.exitcode}") from error

    @classmethod
    @contextmanager
    def running(cls, *arguments: Any) -> "Iterator[SubprocessTask]":
        """Within, the process is there."""
        task = cls(*arguments)
        try:
            yield task
        finally:
            task._pipe.close()
            task._process.join()


def _measure(
    pipe: Any, threads: int, context: BenchmarkContext, build: Callable[..., Task], arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(threads)
    task = build(context, *arguments)
    measures = {"seconds": context.seconds, "peak_megabytes": context.peak_megabytes}
    with suppress(EOFError):  # nobody asks any more
        while True:
            pipe.send(measures[pipe.recv()](task))


def ratio(seconds: list[float], base: list[float]) -> float:
    """The median of the rounds' own ratios."""
    return statistics.median(a / b for a, b in zip(seconds, base, strict=True))
