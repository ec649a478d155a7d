"""One step of every optimizer on the same matrices."""

import re
import statistics
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.context import BenchmarkContext, Row, Task, Workload, ratio
from benchmarks.step import matmul
from ramen.build.objects import build_optimizer
from ramen.config.registry import options
from ramen.errors import ConfigError
from ramen.kernels import plain_torch
from ramen.nn.parameter import declare_factors
from ramen.optimizer.base import iteration_type

SLOW = 5.0  # seconds of a step above which it is not repeated
LOOPS: dict[str, dict[str, Any]] = {"normuon": {}, "bam": {}, "aro_sinkhorn": {"side": "long"}}
"""What is also timed one matrix after the other, and with what changed: ARO's loop rotates the long side, as first written."""


def optimizer(work: Workload, context: BenchmarkContext) -> list[Row]:
    """Against torch.optim.Muon, against a loop over matrices in plain torch (LOOPS), and over the time that a step's matrix
    products would take at the peak.
    """
    tasks: dict[str, Task] = {}
    products: dict[str, int] = {}  # FLOPs
    missing: list[Row] = []
    # In the number type of iteration_dtype=auto, whatever the run's.
    dtype = iteration_type("auto", context.device) or torch.float32
    product, flops = matmul(BenchmarkContext(context.device, dtype))
    for name, option in options("optimizer").items():
        needs = re.findall(r"needs (\w+=\w+)", option.summary)
        parameters = _matrices(work.matrices, context.device, factors=bool(needs))
        try:
            node = work.config(f"optimizer={name}", *needs)["optimizer"]
            step = build_optimizer(node, [{"params": parameters}], []).step
            seconds = context.seconds(step)
        except (ConfigError, RuntimeError) as error:  # an optional package that is not installed; out of memory
            missing.append({"name": name, "milliseconds": None, "note": str(error)})
            continue
        if seconds > SLOW:
            missing.append({"name": name, "milliseconds": seconds * 1e3, "note": "one step alone, its first"})
            continue
        tasks[name] = step
        with FlopCounterMode(display=False) as counter:  # a first step may set up, and a later one refresh
            step()
        products[name] = counter.get_total_flops()
        if name in LOOPS:
            tasks[f"{name}, loop"] = _loop(node | LOOPS[name], parameters)
    times = context.rounds(tasks | {"peak": product}, work.rounds)
    base = times.get("torch_muon")  # which may be missing too
    rows: list[Row] = [
        {
            "name": name,
            "milliseconds": statistics.median(times[name]) * 1e3,
            "times_faster_than_torch_muon": ratio(base, times[name]) if base else None,
            "times_faster_than_loop": ratio(times[f"{name}, loop"], times[name]) if name in LOOPS else None,
            "products_at_peak_milliseconds": statistics.median(times["peak"]) * flop_count / flops * 1e3,
        }
        for name, flop_count in products.items()
    ]
    return sorted(rows, key=lambda row: row["milliseconds"]) + missing


def _loop(node: dict[str, Any], parameters: list[nn.Parameter]) -> Task:
    """A step of an optimizer for each matrix, in plain torch."""
    optimizers = [build_optimizer(node, [{"params": [p]}], []) for p in parameters]

    def loop() -> None:
        with plain_torch():
            for each in optimizers:
                each.step()

    return loop


def _matrices(sizes: tuple[int, int, int], device: torch.device, factors: bool) -> list[nn.Parameter]:
    """Matrices with gradients, or factor pairs of a quarter of full rank."""
    count, rows, columns = sizes
    rank = max(1, min(rows, columns) // 4)
    shapes = [(rows, rank), (rank, columns)] if factors else [(rows, columns)]
    parameters = []
    for _ in range(count):
        group = [nn.Parameter(torch.randn(shape, device=device) * columns**-0.5) for shape in shapes]
        for parameter in group:
            parameter.grad = torch.randn_like(parameter)
        if factors:
            declare_factors(*group)
        parameters += group
    return parameters
