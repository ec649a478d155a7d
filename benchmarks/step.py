"""Training steps: of a config's model, of two configs in turn, and of the same model in plain torch."""

import contextlib
import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from benchmarks import peer
from benchmarks.machine import Elsewhere, Machine, Row, Task, Workload, ratio
from ramen import device as machine
from ramen.build.dry_run import dry_run
from ramen.build.objects import build_groups, build_model, build_optimizers, build_section, choose_attention_backend
from ramen.config.check import settings
from ramen.errors import ConfigError
from ramen.kernels.cuda.graphs import GradientGraphs
from ramen.nn.gpt import DataSpec
from ramen.nn.parameter import initialise
from ramen.training.compilation import choose_compile_mode, loss_function, raise_compile_errors
from ramen.training.gradient_accumulator import GradientAccumulator

VOCABULARY = 2048
LIKE = ("optimizer=adamw", "optimizer.cautious=false", "auxiliary.cautious=false", "model.softcap=null")


class Step:
    """A training step of a config on random text: `differentiate` one micro-batch, then `update`."""

    def __init__(self, config: dict[str, Any], here: Machine, vocabulary: int):
        length = config["data"]["sequence_length"]
        text = DataSpec(vocabulary, vocabulary - 1, length)
        plan = build_section(config, "trainer", length)
        how = choose_compile_mode(settings(config).compile, here.device)
        choose_attention_backend(config, here.device, here.precision, how != "off")
        self.costs = dry_run(config, text, here.precision, here.device.type).costs
        made: Any = build_model(config, text)
        self.model = made
        initialise(self.model, 0)
        self.model.after_step()
        self.model.to(here.device)
        self.optimizers = build_optimizers(config, build_groups(config, self.model))
        self.tokens = torch.randint(0, vocabulary - 1, (plan.micro_rows, length), device=here.device)
        self.tokens[:, 0] = text.bos
        loss = loss_function(self.model, how, plan.activation_checkpointing)
        self._differentiate = GradientAccumulator(loss, plan.micro_rows, here.precision, here.device)
        with raise_compile_errors():
            self()

    def differentiate(self) -> None:
        self.model.zero_grad(set_to_none=True)
        self._differentiate.micro_batch(self.tokens, self.tokens, self.tokens.numel(), documents=len(self.tokens))

    def record(self) -> None:
        """Run micro-batches as a CUDA graph from now on."""
        run, device = self._differentiate.run, self._differentiate.device
        self._differentiate.graphs = GradientGraphs(run, list(self.model.parameters()), lambda: None, device)

    def update(self) -> None:
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizers.step()
        self.model.after_step()

    def __call__(self) -> None:
        self.differentiate()
        self.update()


def matmul(here: Machine) -> tuple[Callable[[], object], float]:
    """A square product in the machine's number type, and its FLOPs: what a share of peak is a share of."""
    size = 8192 if here.device.type == "cuda" else 1536
    square = torch.randn(size, size, device=here.device).to(here.precision)
    return lambda: square @ square, 2 * size**3


def model(work: Workload, here: Machine) -> list[Row]:
    """Training steps of the config's model, against the peak of matrix products of the same number type."""
    step = Step(work.config(), here, work.vocabulary or VOCABULARY)
    product, flops = matmul(here)
    tasks = {"differentiate": step.differentiate, "update": step.update, "matmul": product}
    found = here.rounds(tasks, work.rounds)
    steps = [sum(parts) for parts in zip(found["differentiate"], found["update"], strict=True)]
    rates = [flops / seconds for seconds in found["matmul"]]
    seconds, tokens, cost = statistics.median(steps), step.tokens.numel(), step.costs["flops_per_token"]
    known = machine.peak_rate(here.device)
    return [
        {
            "name": "training step",
            "tokens_per_step": tokens,
            "parameters": step.costs["parameters"],
            "flops_per_token": cost,
            "milliseconds": seconds * 1e3,
            "tokens_per_second": tokens / seconds,
            "gflops_per_second": tokens * cost / seconds / 1e9,
            "matmul_gflops_per_second": statistics.median(rates) / 1e9,
            "share_of_matmul_peak": statistics.median(
                tokens * cost / seconds / rate for seconds, rate in zip(steps, rates, strict=True)
            ),
            "mfu": None if known is None else tokens * cost / seconds / known,
            "optimizer_share": statistics.median(u / s for u, s in zip(found["update"], steps, strict=True)),
            "peak_megabytes": here.peak_megabytes(step),
            "estimated_megabytes": sum(step.costs["memory"].values()) / 1e6,
            "threads": torch.get_num_threads(),
        }
    ]


def against_peer(work: Workload, here: Machine) -> list[Row]:
    """Steps of the config's model and of a GPT of the same size in plain torch, in turn; both compiled or neither.

    What the peer does not do is off (`LIKE`), unless the overrides turn it on.
    """
    own = any(word.startswith("optimizer=") for word in work.overrides)
    like = [word for word in LIKE if not (own and word.startswith("optimizer"))]
    config = replace(work, overrides=(*like, *work.overrides)).config()
    vocabulary = work.vocabulary or VOCABULARY
    ours = Step(config, here, vocabulary)
    sizes = [config["model"][key] for key in ("layers", "dim", "heads")]
    compiled = choose_compile_mode(settings(config).compile, here.device) != "off"
    plain = Elsewhere(here, peer.step, vocabulary, *ours.tokens.shape, *sizes, compiled)
    product, flops = matmul(here)
    tasks: dict[str, Task] = {"ramen": ours, "plain torch": plain}
    with contextlib.closing(plain):
        found = here.rounds({**tasks, "matmul": product}, work.rounds)
        memory = {name: here.peak_megabytes(task) for name, task in tasks.items()}
    tokens, cost = ours.tokens.numel(), ours.costs["flops_per_token"]
    return [
        {
            "name": name,
            "tokens_per_second": tokens / statistics.median(found[name]),
            "times_faster_than_plain": ratio(found["plain torch"], found[name]),
            "share_of_matmul_peak": ratio([tokens * cost / flops * s for s in found["matmul"]], found[name]),
            "peak_megabytes": memory[name],
        }
        for name in tasks
    ]


def compare(work: Workload, here: Machine, lists: list[list[str]]) -> list[Row]:
    """Steps of several configs in turn, each told by its overrides, and how much faster than the first it is, a token."""
    vocabulary = work.vocabulary or VOCABULARY
    steps = {" ".join(words) or "as it is": Step(work.config(*words), here, vocabulary) for words in lists}
    if len(steps) < len(lists):
        raise ConfigError("--compare: needs lists that differ, got the same overrides twice")
    found = here.rounds(dict(steps), work.rounds)
    pace = {name: [s / steps[name].tokens.numel() for s in seconds] for name, seconds in found.items()}
    first = next(iter(pace.values()))
    return [
        {
            "name": name,
            "milliseconds": statistics.median(found[name]) * 1e3,
            "tokens_per_second": 1 / statistics.median(pace[name]),
            "times_faster_than_first": ratio(first, pace[name]),
            "peak_megabytes": here.peak_megabytes(step),
        }
        for name, step in steps.items()
    ]
