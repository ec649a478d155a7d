"""Training steps: of a config's model, of two configs in turn, and of the same model in plain torch."""

import statistics
import time
from dataclasses import replace
from typing import Any

import torch

from benchmarks import peer
from benchmarks.context import BenchmarkContext, Row, SubprocessTask, Task, Workload, ratio
from ramen.build.dry_run import dry_run
from ramen.build.objects import build_groups, build_model, build_optimizers, choose_attention_backend
from ramen.config.check import settings
from ramen.device import peak_rate
from ramen.errors import ConfigError
from ramen.kernels.cuda.graphs import GradientGraphs
from ramen.nn.gpt import DataSpec
from ramen.nn.parameter import initialise
from ramen.training.compilation import choose_compile_mode, loss_function, raise_compile_errors
from ramen.training.loss import GradientAccumulator

VOCABULARY = 2048
LIKE = ("optimizer=adamw", "optimizer.cautious=false", "auxiliary.cautious=false", "model.softcap=null")


class Step:
    """A training step of a config on random text: `differentiate` one micro-batch, then `update`."""

    def __init__(self, config: dict[str, Any], context: BenchmarkContext, vocabulary: int):
        data = DataSpec(vocabulary, vocabulary - 1, config["data"]["sequence_length"])
        mode = choose_compile_mode(settings(config).compile, context.device)
        choose_attention_backend(config, context.device, context.precision, mode != "off")
        dry = dry_run(config, data, context.precision, context.device.type)
        self.costs, rows = dry.costs, dry.trainer.micro_rows
        model: Any = build_model(config, data)
        self.model = model
        initialise(self.model, 0)
        self.model.after_step()
        self.model.to(context.device)
        self.optimizers = build_optimizers(config, build_groups(config, self.model))
        self.tokens = torch.randint(0, data.bos, (rows, data.sequence_length), device=context.device)
        self.tokens[:, 0] = data.bos
        loss = loss_function(self.model, mode, dry.trainer.activation_checkpointing)
        self.accumulator = GradientAccumulator(loss, rows, context.precision, context.device)
        started = time.perf_counter()
        with raise_compile_errors():
            self()
        self.first_seconds = time.perf_counter() - started
        if dry.trainer.cuda_graphs:
            run, parameters = self.accumulator.run, list(self.model.parameters())
            self.accumulator.graphs = GradientGraphs(run, parameters, lambda: None, context.device)

    def differentiate(self) -> None:
        self.model.zero_grad(set_to_none=True)
        self.accumulator.micro_batch(self.tokens, self.tokens, self.tokens.numel(), documents=len(self.tokens))

    def update(self) -> None:
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizers.step()
        self.model.after_step()

    def __call__(self) -> None:
        self.differentiate()
        self.update()


def matmul(context: BenchmarkContext) -> tuple[Task, float]:
    """A square product in the context's number type, and its FLOPs: what a share of peak is a share of."""
    size = 8192 if context.device.type == "cuda" else 1536
    square = torch.randn(size, size, device=context.device).to(context.precision)
    return lambda: square @ square, 2 * size**3


def model(work: Workload, context: BenchmarkContext) -> list[Row]:
    """Training steps of the config's model, against the peak of matrix products of the same number type."""
    step = Step(work.config(), context, work.vocabulary or VOCABULARY)
    product, flops = matmul(context)
    tasks = {"differentiate": step.differentiate, "update": step.update, "matmul": product}
    times = context.rounds(tasks, work.rounds)
    steps = [sum(parts) for parts in zip(times["differentiate"], times["update"], strict=True)]
    seconds, tokens, cost = statistics.median(steps), step.tokens.numel(), step.costs["flops_per_token"]
    update, peak = statistics.median(times["update"]), peak_rate(context.device)
    return [
        {
            "name": "training step",
            "tokens_per_step": tokens,
            "parameters": step.costs["parameters"],
            "flops_per_token": cost,
            "milliseconds": seconds * 1e3,
            "tokens_per_second": tokens / seconds,
            "gflops_per_second": tokens * cost / seconds / 1e9,
            "matmul_gflops_per_second": flops / statistics.median(times["matmul"]) / 1e9,
            "share_of_matmul_peak": ratio(times["matmul"], steps) * tokens * cost / flops,
            "mfu": None if peak is None else tokens * cost / seconds / peak,
            "optimizer_share": ratio(times["update"], steps),
            "optimizer_share_of_32k_tokens": update / ((seconds - update) * 32768 / tokens + update),
            "first_step_seconds": step.first_seconds,
            "peak_megabytes": context.peak_megabytes(step),
            "estimated_megabytes": sum(step.costs["memory"].values()) / 1e6,
            "threads": torch.get_num_threads(),
        }
    ]


def against_peer(work: Workload, context: BenchmarkContext) -> list[Row]:
    """Steps of the config's model and of a GPT of the same size in plain torch, in turn; both compiled or neither.

    What the peer does not do is off (`LIKE`), unless the overrides turn it on.
    """
    chosen = any(word.startswith("optimizer=") for word in work.overrides)
    like = [word for word in LIKE if not (chosen and word.startswith("optimizer"))]
    config = replace(work, overrides=(*like, *work.overrides)).config()
    vocabulary = work.vocabulary or VOCABULARY
    ours = Step(config, context, vocabulary)
    sizes = [config["model"][key] for key in ("layers", "dim", "heads")]
    compiled = choose_compile_mode(settings(config).compile, context.device) != "off"
    product, flops = matmul(context)
    with SubprocessTask.running(context, peer.step, vocabulary, *ours.tokens.shape, *sizes, compiled) as plain:
        tasks: dict[str, Task] = {"ramen": ours, "plain torch": plain, "matmul": product}
        tokens = dict.fromkeys(tasks, ours.tokens.numel())
        *rows, matmul_row = context.compare(tasks, tokens, work.rounds, "plain torch", "plain")
    at_peak = ours.costs["flops_per_token"] / flops * matmul_row["milliseconds"] / 1e3  # seconds a token
    return [row | {"share_of_matmul_peak": at_peak * row["tokens_per_second"]} for row in rows]


def compare(work: Workload, context: BenchmarkContext, lists: list[list[str]]) -> list[Row]:
    """Steps of several configs in turn, each named by its overrides, and how much faster than the first it is, a token."""
    steps = {
        " ".join(overrides) or "as it is": Step(work.config(*overrides), context, work.vocabulary or VOCABULARY)
        for overrides in lists
    }
    if len(steps) < len(lists):
        raise ConfigError("--compare: needs lists that differ, got the same overrides twice")
    tokens = {name: step.tokens.numel() for name, step in steps.items()}
    return context.compare(steps, tokens, work.rounds, next(iter(steps)), "first")
