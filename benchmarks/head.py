"""Head and loss, forward and backward: fused, and in plain torch in a process of its own."""

import contextlib
import statistics
from collections.abc import Callable

import torch
from torch.nn import functional as F

from benchmarks.machine import Elsewhere, Machine, Row, Task, Workload, ratio
from ramen.ops.cross_entropy import linear_cross_entropy
from ramen.ops.softcap import Softcap


def head(work: Workload, here: Machine) -> list[Row]:
    """With the width and softcap of the config."""
    config = work.config()
    vocabulary, dim = work.vocabulary or 50304, config["model"]["dim"]
    cap = Softcap(**config["model"]["softcap"]) if config["model"]["softcap"] else None
    sizes = work.head_tokens, dim, vocabulary, cap
    plain = Elsewhere(here, step, *sizes, False)
    tasks: dict[str, Task] = {"fused": step(here, *sizes, True), "plain torch": plain}
    with contextlib.closing(plain):
        found = here.rounds(tasks, work.rounds)
        memory = {name: here.peak_megabytes(task) for name, task in tasks.items()}
    return [
        {
            "name": name,
            "tokens": work.head_tokens,
            "vocabulary": vocabulary,
            "milliseconds": statistics.median(found[name]) * 1e3,
            "times_faster_than_plain": ratio(found["plain torch"], found[name]),
            "peak_megabytes": memory[name],
        }
        for name in tasks
    ]


def step(here: Machine, tokens: int, dim: int, vocabulary: int, cap: Softcap | None, fused: bool) -> Callable[[], None]:
    """Loss and gradients of random activations (tokens, dim) and targets."""
    x = torch.randn(tokens, dim, device=here.device, requires_grad=True)
    weight = (torch.randn(vocabulary, dim, device=here.device) * 0.02).requires_grad_()
    targets = torch.randint(0, vocabulary, (tokens,), device=here.device)

    def run() -> None:
        x.grad = weight.grad = None
        with here.autocast():
            if fused:
                summed = linear_cross_entropy(x, weight, targets, vocabulary, cap)
            else:
                logits = (x @ weight.T).float()
                summed = F.cross_entropy(cap(logits) if cap else logits, targets, reduction="sum")
        summed.backward()

    return run
