"""What is measured, where, and by which clock.

What is compared is timed in turn, round after round, so that a noisy machine slows all of it alike; a ratio is the median of the
rounds' own ratios. On one CPU thread the clock counts the process's CPU time, which other processes do not disturb.
"""

import ctypes
import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir

from ramen.command import plain
from ramen.config import check
from ramen.registry import CONF

Row = dict[str, Any]  # one line of a section: its name, and figures with their units in the keys
Told = Callable[[str, list[Row]], None]


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
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = plain(compose("config", [*self.overrides, *more]))
        check(config)
        return config


@dataclass(frozen=True)
class Machine:
    """Where it is measured."""

    device: torch.device
    precision: torch.dtype

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32)

    def seconds(self, task: Callable[[], object]) -> float:
        """Time of one call."""
        alone = self.device.type == "cpu" and torch.get_num_threads() == 1
        clock = time.process_time if alone else time.perf_counter
        started = clock()
        task()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return clock() - started

    def rounds(self, tasks: Mapping[str, Callable[[], object]], count: int) -> dict[str, list[float]]:
        """Seconds of every task in every round, in turn; two rounds before warm up and do not count."""
        found: dict[str, list[float]] = {name: [] for name in tasks}
        for _ in range(count + 2):
            for name, task in tasks.items():
                found[name].append(self.seconds(task))
        return {name: seconds[2:] for name, seconds in found.items()}

    def peak_megabytes(self, task: Callable[[], object]) -> float | None:
        """Memory a call takes at its peak, beyond what was held before; None where that cannot be seen."""
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


def ratio(seconds: list[float], base: list[float]) -> float:
    """The median of the rounds' own ratios."""
    return statistics.median(a / b for a, b in zip(seconds, base, strict=True))


def process_kilobytes(key: str) -> int:
    """A figure of /proc/self/status. OSError where there is none."""
    status_file = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status_file.splitlines() if line.startswith(key + ":")))
