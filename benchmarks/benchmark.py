"""How fast training is on this machine: whole steps, optimizers, the head, the loader, the start, the jobs of a sweep."""

import re
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.head import head
from benchmarks.jobs import ONE_STEP, sweep, train
from benchmarks.loader import loader
from benchmarks.machine import Machine, Row, Workload, ratio
from benchmarks.step import against_peer, compare, matmul, model
from ramen import device as machine
from ramen.build.objects import build_optimizer
from ramen.config.check import settings
from ramen.config.registry import options
from ramen.errors import ConfigError
from ramen.kernels import plain_torch, status
from ramen.nn.parameter import declare_factors
from ramen.optimizer.base import iteration_type


def benchmark(
    work: Workload, sections: list[str], told: Callable[[str, list[Row]], None], lists: list[list[str]] | None = None
) -> dict[str, Any]:
    """Measure the sections, and steps under each of `lists` of overrides; each section is handed to `told` when it is done.

    ConfigError for a config that is wrong.
    """
    config = work.config()
    own = settings(config)
    device = machine.select_device(own.device)
    machine.prepare(device, own.threads)
    here = Machine(device, machine.select_precision(own.precision, device))
    facts = {**machine.describe(device), "precision": str(here.precision).removeprefix("torch."), "kernels": status()}
    found: dict[str, Any] = {"machine": facts, "overrides": list(work.overrides)}
    for name in sections:
        found[name] = SECTIONS[name](work, here)
        told(name, found[name])
    if lists:
        found["compare"] = compare(work, here, lists)
        told("compare", found["compare"])
    return found


def optimizer(work: Workload, here: Machine) -> list[Row]:
    """One step of every optimizer of conf/optimizer on the same matrices: against torch.optim.Muon, against a loop over matrices
    in plain torch (LOOPS), and over the time its matrix products would take at the machine's peak.
    """
    tasks: dict[str, Callable[[], object]] = {}
    products: dict[str, int] = {}  # FLOPs
    missing: list[Row] = []
    # In the number type of iteration_dtype=auto, whatever the run's.
    product, flops = matmul(Machine(here.device, iteration_type("auto", here.device) or torch.float32))
    for name, option in options("optimizer").items():
        needs = re.findall(r"needs (\w+=\w+)", option.summary)
        parameters = _matrices(work.matrices, here.device, factors=bool(needs))
        try:
            node = work.config(f"optimizer={name}", *needs)["optimizer"]
            step = build_optimizer(node, [{"params": parameters}], []).step
            seconds = here.seconds(step)
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
    found = here.rounds(tasks | {"peak": product}, work.rounds)
    rows: list[Row] = []
    base = found.get("torch_muon")  # which may be missing too
    for name in (name for name in tasks if "loop" not in name):
        at_peak = [seconds * products[name] / flops for seconds in found["peak"]]
        loop = found.get(f"{name}, loop")
        rows.append(
            {
                "name": name,
                "milliseconds": statistics.median(found[name]) * 1e3,
                "times_faster_than_torch_muon": ratio(base, found[name]) if base else None,
                "times_faster_than_loop": ratio(loop, found[name]) if loop else None,
                "products_at_peak_milliseconds": statistics.median(at_peak) * 1e3,
            }
        )
    return sorted(rows, key=lambda row: row["milliseconds"]) + missing


SLOW = 5.0  # seconds of a step above which it is not repeated
LOOPS: dict[str, dict[str, Any]] = {"normuon": {}, "bam": {}, "aro_sinkhorn": {"side": "long"}}
"""What is also timed one matrix after the other, and with what changed: ARO's loop rotates the long side, as first written."""


def _loop(node: dict[str, Any], parameters: list[nn.Parameter]) -> Callable[[], None]:
    """A step of an optimizer for each matrix, in plain torch."""
    alone = [build_optimizer(node, [{"params": [p]}], []) for p in parameters]

    def loop() -> None:
        with plain_torch():
            for one in alone:
                one.step()

    return loop


def startup(work: Workload, here: Machine) -> list[Row]:
    """train.py as a new process, in wall seconds: its help, a run of one step, and the same where kernels must be compiled."""

    def process(*words: str, **environment: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            train(*words, *(f"hydra.run.dir='{folder}'" for _ in words[1:2]), **environment)

    def fresh() -> None:
        with tempfile.TemporaryDirectory() as cache:
            process(*run, XDG_CACHE_HOME=cache)

    run = [*work.overrides, *ONE_STEP]
    tasks = {
        "train.py --help": lambda: process("--help"),
        "one step": lambda: process(*run),
        "one step, first time": fresh,
    }
    tasks["one step"]()  # prepares the data, if need be
    found: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(min(work.rounds, 3)):
        for name, task in tasks.items():
            started = time.perf_counter()
            task()
            found[name].append(time.perf_counter() - started)
    return [{"name": name, "seconds": statistics.median(seconds)} for name, seconds in found.items()]


SECTIONS: dict[str, Callable[[Workload, Machine], list[Row]]] = {
    "model": model,
    "peer": against_peer,
    "optimizer": optimizer,
    "head": head,
    "loader": loader,
    "startup": startup,
    "sweep": sweep,
}


def _matrices(sizes: tuple[int, int, int], device: torch.device, factors: bool) -> list[nn.Parameter]:
    """Matrices with gradients, or factor pairs of a quarter of full rank."""
    count, rows, columns = sizes
    rank = max(1, min(rows, columns) // 4)
    shapes = [(rows, rank), (rank, columns)] if factors else [(rows, columns)]
    made = []
    for _ in range(count):
        group = [nn.Parameter(torch.randn(shape, device=device) * columns**-0.5) for shape in shapes]
        for parameter in group:
            parameter.grad = torch.randn_like(parameter)
        if factors:
            declare_factors(*group)
        made += group
    return made
