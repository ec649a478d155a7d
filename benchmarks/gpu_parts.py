"""What a GPU is asked by benchmarks/gpu_check.py: does it compute the same, how fast, in how much memory. See there.

Parity is of relative errors: what is compared differs in the order of sums and in bf16's rounding, CUDA graphs in nothing.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn import functional as F

from benchmarks.benchmark import optimizer as optimizer_section
from benchmarks.machine import Machine, Workload
from benchmarks.step import Step, matmul
from ramen import device as machine
from ramen.build.objects import build_groups, build_model, build_optimizers
from ramen.data.batches import Batch
from ramen.kernels import plain_torch
from ramen.kernels.any.cross_entropy import cross_entropy_rows
from ramen.kernels.cuda.graphs import GradientGraphs, GraphedStep
from ramen.nn.gpt import DataSpec
from ramen.nn.parameter import initialise
from ramen.ops.adamw import cautious_adamw
from ramen.ops.bank import descend
from ramen.ops.cross_entropy import IGNORED, linear_cross_entropy
from ramen.ops.doubly_stochastic import scaled, sinkhorn_knopp
from ramen.ops.operation import twins
from ramen.ops.softcap import Softcap
from ramen.optimizer.adamw import AdamW
from ramen.optimizer.base import Group, MatrixOptimizer, State
from ramen.training.compilation import CompileMode, loss_function
from ramen.training.gradient_accumulator import GradientAccumulator

DEVICE = torch.device("cuda")
TEXT = DataSpec(2048, 2047, 256)
VOCABULARY, PADDED = 50257, 50304  # of the head, and of steps on random text
Found = dict[str, Any]
Gradients = dict[str, Tensor]


def _batch(rows: int = 8) -> Tensor:
    tokens = torch.randint(0, TEXT.bos, (rows, TEXT.sequence_length), generator=torch.Generator().manual_seed(0))
    tokens[:, 0] = tokens[::2, 77] = tokens[1::3, 200] = TEXT.bos
    return tokens.to(DEVICE)


def _gradients(*words: str, precision: torch.dtype = torch.float32, how: CompileMode = "off") -> Gradients:
    """Loss and gradients of a model of the config, all weights away from zero, on one batch."""
    config = Workload((*words, "model.layers=3")).config()
    made: Any = build_model(config, TEXT)
    initialise(made, 0)
    with torch.no_grad():
        for number, parameter in enumerate(made.parameters()):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
            parameter += 0.02 * noise
    made.to(DEVICE)
    tokens = _batch()
    with torch.autocast(DEVICE.type, precision) if precision != torch.float32 else nullcontext():
        loss = loss_function(made, how, False)(tokens, tokens.clone(), int((tokens == TEXT.bos).sum()))
    loss.backward()
    return {"loss": loss.detach()} | {name: p.grad for name, p in made.named_parameters() if p.grad is not None}


def _agree(got: Gradients, expected: Gradients, within: float) -> Found:
    worst = {name: ((got[name] - e).norm() / e.norm().clamp_min(1e-12)).item() for name, e in expected.items()}
    name = max(worst, key=lambda key: worst[key])
    return {"holds": worst[name] < within, "largest_relative_error": worst[name], "of": name, "allowed": within}


def attention() -> Found:
    """Backends against SDPA in float32, each in its own type, with a window and several documents a row; and heads in pairs."""
    paired = (
        "attention.paired_layers=[1]",
        "attention.key_offset=true",
        "attention.xsa=true",
        "attention.gate_inputs=12",
    )
    bf16 = torch.bfloat16
    cases: dict[str, tuple[tuple[str, ...], str, dict[str, Any], float]] = {
        "sdpa, bf16": ((), "sdpa", {"precision": bf16}, 5e-2),
        "varlen, bf16": ((), "varlen", {"precision": bf16}, 5e-2),
        "varlen in pairs, bf16": (paired, "varlen", {"precision": bf16}, 5e-2),
        "flex, fp32": ((), "flex", {}, 2e-3),
        "flex in pairs, compiled, bf16": (paired, "flex", {"how": "on", "precision": bf16}, 5e-2),
    }
    found: Found = {}
    for name, (words, backend, how, within) in cases.items():
        words = ("attention.long_window_tokens=100", *words)
        exact = _gradients(*words, "attention.backend=sdpa")
        try:
            found[name] = _agree(_gradients(*words, f"attention.backend={backend}", **how), exact, within)
        except Exception as error:
            found[name] = {"holds": False, "error": f"{type(error).__name__}: {error}"}
    return {"holds": all(one["holds"] for one in found.values()), **found}


def compiled(how: CompileMode) -> Found:
    """The model as one graph, or its blocks compiled one by one (regional), against the model as it is."""
    return _agree(_gradients("attention.backend=flex", how=how), _gradients("attention.backend=sdpa"), 2e-3)


def bf16() -> Found:
    """The default model in bf16 against float32."""
    return _agree(_gradients(precision=torch.bfloat16), _gradients("attention.backend=sdpa"), 5e-2)


def head() -> Found:
    """The Triton kernel against its plain twin and all logits at once, in every form of softcap, with padding and ignored targets.

    Two chunks of tokens, so that gradients are added up; time and memory.
    """
    generator, tokens = torch.Generator().manual_seed(0), 8192
    x, weight = torch.randn(tokens, 256, generator=generator), 0.05 * torch.randn(PADDED, 256, generator=generator)
    targets = torch.randint(0, VOCABULARY, (tokens,), generator=generator)
    targets[::7] = IGNORED
    x, weight, targets = x.to(DEVICE).requires_grad_(), weight.to(DEVICE).requires_grad_(), targets.to(DEVICE)
    caps = {"none": None, "sigmoid": Softcap("sigmoid", 23.0, 5.0, 7.5), "tanh": Softcap("tanh", 30.0, 0.0, 30.0)}
    found: Found = {}
    here = Machine(DEVICE, torch.bfloat16)

    def differentiated(cap: Softcap | None, triton: bool) -> Gradients:
        with nullcontext() if triton else plain_torch(), here.autocast():
            loss = linear_cross_entropy(x, weight, targets, VOCABULARY, cap)
            grads = torch.autograd.grad(loss, (x, weight))
            return {"loss": loss.detach(), "x": grads[0], "weight": grads[1]}

    def at_once(cap: Softcap | None) -> Gradients:
        with here.autocast():
            logits = (x @ weight.T)[:, :VOCABULARY].float()
        loss = F.cross_entropy(cap(logits) if cap else logits, targets, reduction="sum")
        grads = torch.autograd.grad(loss, (x, weight))
        return {"loss": loss.detach(), "x": grads[0], "weight": grads[1]}

    for name, cap in caps.items():
        found[name] = _agree(differentiated(cap, True), differentiated(cap, False), 1e-2)
        whole = _agree(differentiated(cap, True), at_once(cap), 1e-2)
        found[name] |= {"all_at_once": whole, "holds": found[name]["holds"] and whole["holds"]}
        tasks = {"triton": partial(differentiated, cap, True), "twin": partial(differentiated, cap, False)}
        for kind, seconds in here.rounds(tasks, 3).items():
            found[name][f"{kind}_milliseconds"] = min(seconds) * 1e3
            found[name][f"{kind}_megabytes"] = here.peak_megabytes(tasks[kind])
    return {"holds": "cuda" in twins(cross_entropy_rows) and all(one["holds"] for one in found.values()), **found}


def cautious() -> Found:
    """AdamW with cautious decay by the Triton kernel against its twin, after three steps of a table; time of both."""
    return _stepped(
        cautious_adamw,
        lambda p: AdamW(p, lr=0.01, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.3, cautious=True),
        [(PADDED, 256)],
    )


def bank() -> Found:
    """The two passes of every matrix optimizer, likewise, after three steps of 24 matrices."""

    class Momentum(MatrixOptimizer):
        def direction(self, momentum: Tensor, state: State, group: Group) -> Tensor:
            return momentum

    def build(p: list[Parameter]) -> Momentum:
        return Momentum(
            p, lr=0.01, momentum=0.9, nesterov=True, weight_decay=0.3, cautious=True, decay_lr_power=1, hyperball=False
        )  # fmt: skip

    return _stepped(descend, build, [(1024, 256)] * 24)


def _stepped(
    operation: Callable[..., Any],
    build: Callable[[list[Parameter]], torch.optim.Optimizer],
    shapes: Sequence[tuple[int, int]],
) -> Found:
    here = Machine(DEVICE, torch.float32)
    gradients = [[torch.randn(shape, device=DEVICE) for shape in shapes] for _ in range(3)]

    def stepped(by: AbstractContextManager[None]) -> tuple[torch.optim.Optimizer, Gradients]:
        weights = [Parameter(torch.ones(shape, device=DEVICE)) for shape in shapes]
        with by:
            made = build(weights)
            for step in gradients:
                for weight, gradient in zip(weights, step, strict=True):
                    weight.grad = gradient
                made.step()
        return made, {str(k): weight.detach().clone() for k, weight in enumerate(weights)}

    (ours, got), (twin, expected) = stepped(nullcontext()), stepped(plain_torch())

    def step_of_twin() -> None:
        with plain_torch():
            twin.step()

    seconds = here.rounds({"triton": ours.step, "twin": step_of_twin}, 3)
    found = _agree(got, expected, 1e-5)
    found |= {f"{kind}_milliseconds": min(times) * 1e3 for kind, times in seconds.items()}
    return found | {"holds": found["holds"] and "cuda" in twins(operation)}


def sinkhorn() -> Found:
    """mHC's projection with the Triton kernels against their twin, and its gradient; time of both."""
    generator, here = torch.Generator().manual_seed(0), Machine(DEVICE, torch.float32)
    logits, grad = (torch.randn(32768, 4, 4, generator=generator).to(DEVICE) for _ in range(2))
    logits = (4 * logits).requires_grad_()

    def projected(by: Callable[[], AbstractContextManager[None]]) -> Gradients:
        with by():
            y = sinkhorn_knopp(logits, 20)
            return {"value": y.detach(), "gradient": torch.autograd.grad(y, logits, grad)[0]}

    tasks = {"triton": partial(projected, nullcontext), "twin": partial(projected, plain_torch)}
    found = _agree(tasks["triton"](), tasks["twin"](), 2e-3)  # the gradient solves a system of the rounded result
    found |= {f"{kind}_milliseconds": min(times) * 1e3 for kind, times in here.rounds(tasks, 3).items()}
    return found | {"holds": found["holds"] and "cuda" in twins(scaled)}


def graphs() -> Found:
    """Recorded micro-batches and steps of optimizers against the same without, which accumulate and change size.

    Not a bit may differ where the run without differs in none from itself.
    """

    def weights(recorded: bool) -> Gradients:
        config = Workload(("attention.backend=sdpa", "model.layers=3")).config()
        made: Any = build_model(config, TEXT)
        initialise(made, 0)
        made.to(DEVICE)
        optimizers = build_optimizers(config, build_groups(config, made))
        step = GradientAccumulator(loss_function(made, "off", False), 4, torch.bfloat16, DEVICE)
        if recorded:
            step.graphs = GradientGraphs(step.run, list(made.parameters()), lambda: None, DEVICE)
            optimizers.use_cuda_graphs(GraphedStep)
        for number, rows in enumerate((8, 4, 6, 8)):
            tokens = _batch(rows)
            step(Batch(tokens, tokens, tokens.numel()))
            optimizers.schedule(number / 4, 1 - number / 4)
            optimizers.step()
            made.zero_grad(set_to_none=True)
        return {name: p.detach().clone() for name, p in made.named_parameters()}

    plain, again, recorded = weights(False), weights(False), weights(True)
    repeats = all(torch.equal(again[name], value) for name, value in plain.items())
    if repeats:
        differ = [name for name, value in plain.items() if not torch.equal(recorded[name], value)]
        return {"holds": not differ, "repeats": True, "differ": differ}
    return {**_agree(recorded, plain, 1e-2), "repeats": False}


QUEUED = 4  # steps between two looks at the clock: a run does not wait for each


def steps(words: tuple[str, ...], rounds: int) -> Found:
    """Training steps of a config on random text at its micro-batch, beside the largest rate of a matrix product."""
    here, config = Machine(DEVICE, torch.bfloat16), Workload(words).config()
    started = time.perf_counter()
    step = Step(config, here, VOCABULARY)
    torch.cuda.synchronize(DEVICE)
    first = time.perf_counter() - started
    memory = machine.PeakMemory(DEVICE)
    step()
    peak = memory.bytes()
    product, flops = matmul(here)
    tasks: dict[str, Callable[[], object]] = {"step": step, "update": step.update, "product": product}
    times = here.rounds({name: _repeated(task) for name, task in tasks.items()}, rounds)
    seconds = {name: statistics.median(found) / QUEUED for name, found in times.items()}
    tokens, known = step.tokens.numel(), machine.peak_rate(DEVICE)
    rate = tokens * step.costs["flops_per_token"] / seconds["step"]
    at_32k = (seconds["step"] - seconds["update"]) * 32768 / tokens + seconds["update"]
    return {
        "tokens": tokens,
        "milliseconds": seconds["step"] * 1e3,
        "tokens_per_second": tokens / seconds["step"],
        "mfu": None if known is None else rate / known,
        "mfu_of_780_teraflops": rate / 780e12,
        "share_of_matmul": rate * seconds["product"] / flops,
        "matmul_teraflops": flops / seconds["product"] / 1e12,
        "update_milliseconds": seconds["update"] * 1e3,
        "update_share_of_32k_tokens": seconds["update"] / at_32k,
        "peak_bytes": peak,
        "estimated_bytes": sum(step.costs["memory"].values()),
        "first_step_seconds": first,
    }


def _repeated(task: Callable[[], object]) -> Callable[[], object]:
    return lambda: [task() for _ in range(QUEUED)]


def recorded_steps(words: tuple[str, ...], rounds: int) -> Found:
    """A micro-batch as a CUDA graph against without, in turn."""
    here = Machine(DEVICE, torch.bfloat16)
    plain, recorded = (Step(Workload(words).config(), here, VOCABULARY) for _ in range(2))
    recorded.record()
    tasks = {"plain": _repeated(plain.differentiate), "recorded": _repeated(recorded.differentiate)}
    found = here.rounds(tasks, rounds)
    return {f"{name}_milliseconds": statistics.median(seconds) / QUEUED * 1e3 for name, seconds in found.items()}


def optimizers(matrices: tuple[int, int, int], rounds: int) -> Found:
    """A step of every method on so many matrices of rows and columns."""
    work = Workload(("device=cuda",), matrices=matrices, rounds=rounds)
    return {"rows": optimizer_section(work, Machine(DEVICE, torch.bfloat16))}


def parts(rounds: int) -> dict[tuple[str, str], Callable[[], Found]]:
    """(section, name) -> what to run, the most telling first."""

    def config(experiment: str, how: str) -> tuple[str, ...]:
        return (f"experiment={experiment}", "device=cuda", "precision=bf16", f"compile={how}")

    checks: dict[str, Callable[[], Found]] = {
        "fused head": head, "attention": attention, "bf16": bf16, "compiled": partial(compiled, "on"), "CUDA graphs": graphs,
        "cautious AdamW": cautious, "banks": bank, "sinkhorn": sinkhorn, "regional": partial(compiled, "regional"),
    }  # fmt: skip
    made: dict[tuple[str, str], Callable[[], Found]] = {("parity", name): check for name, check in checks.items()}
    sizes = {"baseline": (24, 1024, 256), "gpt2_124m": (48, 3072, 768)}  # about the matrices of each
    for how in ("on", "off", "regional"):
        for experiment in sizes:
            made["steps", f"{experiment}, {how}"] = partial(steps, config(experiment, how), rounds)
        if how == "on":
            made["graphs", "baseline"] = partial(recorded_steps, config("baseline", how), rounds)
            made["optimizers", "baseline"] = partial(optimizers, sizes["baseline"], rounds)
    made["graphs", "gpt2_124m"] = partial(recorded_steps, config("gpt2_124m", "on"), rounds)
    made["optimizers", "gpt2_124m"] = partial(optimizers, sizes["gpt2_124m"], rounds)
    return made


def sentence(result: Found) -> str:
    """A result in a line."""
    if "skipped" in result or "error" in result:
        return str(result.get("skipped") or result["error"]).partition("\n")[0]
    if "holds" in result:
        return "holds" if result["holds"] else f"DOES NOT HOLD: {result}"
    if "tokens_per_second" in result:
        share = "" if result["mfu"] is None else f"MFU {result['mfu']:.1%} by the data sheet, "
        return (
            f"{result['tokens_per_second']:,.0f} tokens/s, {share}{result['mfu_of_780_teraflops']:.1%} of 780 TFLOP/s, "
            f"{result['share_of_matmul']:.1%} of the {result['matmul_teraflops']:.0f} TFLOP/s of a product here; optimizer "
            f"{result['update_share_of_32k_tokens']:.1%} of a step of 32k tokens; {result['peak_bytes'] / 1e9:.2f} GB at the peak; "
            f"first step after {result['first_step_seconds']:.0f} s"
        )
    return ", ".join(f"{key} {value:.3g}" for key, value in result.items() if isinstance(value, float)) or "done"


def markdown(found: Found) -> str:
    """The figures as a page."""
    where = found["machine"]
    said = f"torch {where['versions']['torch']}. Written by benchmarks/gpu_check.py."
    lines = [f"# {where['device']}, {found['date']}", "", said, ""]
    for section in ("parity", "steps", "graphs"):
        lines += [f"## {section.capitalize()}", ""]
        lines += [f"- {name}: {sentence(result)}" for name, result in found.get(section, {}).items()] + [""]
    for size, result in found.get("optimizers", {}).items():
        lines += [f"## A step of each optimizer on the matrices of {size}", ""]
        if "rows" not in result:
            lines += [sentence(result), ""]
            continue
        lines += ["| method | milliseconds | times faster than torch's Muon |", "|---|---|---|"]
        for row in result["rows"]:
            if row["milliseconds"] is not None:
                ratio = row.get("times_faster_than_torch_muon")
                times = "-" if ratio is None else f"{ratio:.3g}"
                lines.append(f"| {row['name']} | {row['milliseconds']:.3g} | {times} |")
        lines += [f"\n{row['name']}: {row['note']}" for row in result["rows"] if row.get("note")] + [""]
    return "\n".join(lines)
