"""Head and loss, forward and backward: fused, and in plain torch in a process of its own."""

import torch
from torch.nn import functional as F

from benchmarks.context import BenchmarkContext, Row, SubprocessTask, Task, Workload
from ramen import kernels
from ramen.ops.cross_entropy import Softcap, linear_cross_entropy


def head(work: Workload, context: BenchmarkContext) -> list[Row]:
    """With the width and softcap of the config."""
    config = work.config()
    vocabulary, cap = work.vocabulary or 50304, config["model"]["softcap"]
    sizes = work.head_tokens, config["model"]["dim"], vocabulary, Softcap(**cap) if cap else None
    with SubprocessTask.running(context, step, *sizes, False) as plain:
        tasks: dict[str, Task] = {"fused": step(context, *sizes, True), "plain torch": plain}
        tokens = dict.fromkeys(tasks, work.head_tokens)
        rows = context.compare(tasks, tokens, work.rounds, "plain torch", "plain")
    return [row | {"tokens": work.head_tokens, "vocabulary": vocabulary} for row in rows]


def step(
    context: BenchmarkContext, tokens: int, dim: int, vocabulary: int, cap: Softcap | None, fused: bool
) -> Task:  # fmt: skip
    """Loss and gradients of random activations (tokens, dim) and targets."""
    x = torch.randn(tokens, dim, device=context.device, requires_grad=True)
    weight = (torch.randn(vocabulary, dim, device=context.device) * 0.02).requires_grad_()
    targets = torch.randint(0, vocabulary, (tokens,), device=context.device)
    if fused:
        kernels.register()

    def run() -> None:
        x.grad = weight.grad = None
        with context.autocast():
            if fused:
                loss = linear_cross_entropy(x, weight, targets, vocabulary, cap)
            else:
                logits = (x @ weight.T).float()
                loss = F.cross_entropy(cap(logits) if cap else logits, targets, reduction="sum")
        loss.backward()

    return run
