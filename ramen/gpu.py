"""What a GPU is asked by scripts/gpu_check.py: does it compute the same, how fast, in how much memory. See there.

Parity is of relative errors: what is compared differs in the order of sums and in bf16's rounding, CUDA graphs in nothing.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from ramen import assemble
from ramen import device as machine
from ramen.benchmark import optimizer as optimizer_section
from ramen.measure.machine import Machine, Workload
from ramen.measure.step import Step, model
from ramen.model.gpt import Text
from ramen.ops import cross_entropy
from ramen.ops.cross_entropy import linear_cross_entropy
from ramen.ops.parameter import initialise
from ramen.ops.softcap import Softcap
from ramen.trainer.compiling import How, forward
from ramen.trainer.differentiate import Differentiate
from ramen.trainer.feed import DeviceBatch

DEVICE = torch.device("cuda")
TEXT = Text(2048, 2047, 256)
VOCABULARY, PADDED = 50257, 50304  # of the head, and of steps on random text
Found = dict[str, Any]
Gradients = dict[str, Tensor]


def _batch(rows: int = 8) -> Tensor:
    tokens = torch.randint(0, TEXT.bos, (rows, TEXT.sequence_length), generator=torch.Generator().manual_seed(0))
    tokens[:, 0] = tokens[::2, 77] = tokens[1::3, 200] = TEXT.bos
    return tokens.to(DEVICE)


def _gradients(*words: str, precision: torch.dtype = torch.float32, how: How = "off") -> Gradients:
    """Loss and gradients of a model of the config, all weights away from zero, on one batch."""
    config = Workload((*words, "model.layers=3")).config()
    made: Any = assemble.model(config, TEXT)
    initialise(made, 0)
    with torch.no_grad():
        for number, parameter in enumerate(made.parameters()):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
            parameter += 0.02 * noise
    made.to(DEVICE)
    tokens = _batch()
    with torch.autocast(DEVICE.type, precision) if precision != torch.float32 else nullcontext():
        loss = forward(made, how, False)(tokens, tokens.clone())
    loss.backward()
    return {"loss": loss.detach()} | {name: p.grad for name, p in made.named_parameters() if p.grad is not None}


def _agree(got: Gradients, expected: Gradients, within: float) -> Found:
    worst = {name: ((got[name] - e).norm() / e.norm().clamp_min(1e-12)).item() for name, e in expected.items()}
    name = max(worst, key=lambda key: worst[key])
    return {"holds": worst[name] < within, "largest_relative_error": worst[name], "of": name, "allowed": within}


def attention() -> Found:
    """Backends against SDPA in float32, each in its own type, with a window and several documents a row."""
    window = "attention.long_window_tokens=100"
    exact = _gradients(window, "attention.backend=sdpa")
    found = {
        "flex, fp32": _agree(_gradients(window, "attention.backend=flex"), exact, 2e-3),
        "flex, compiled": _agree(_gradients(window, "attention.backend=flex", how="on"), exact, 2e-3),
        "sdpa, bf16": _agree(_gradients(window, "attention.backend=sdpa", precision=torch.bfloat16), exact, 5e-2),
        "varlen, bf16": _agree(_gradients(window, "attention.backend=varlen", precision=torch.bfloat16), exact, 5e-2),
    }
    return {"holds": all(one["holds"] for one in found.values()), **found}


def regional() -> Found:
    """Blocks compiled one by one against the model as it is."""
    return _agree(_gradients("attention.backend=flex", how="regional"), _gradients("attention.backend=sdpa"), 2e-3)


def bf16() -> Found:
    """The default model in bf16 against float32."""
    return _agree(_gradients(precision=torch.bfloat16), _gradients("attention.backend=sdpa"), 5e-2)


def head() -> Found:
    """The Triton kernel against its plain twin, in every form of softcap, with padding and ignored targets; time and memory."""
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(4096, 256, generator=generator), 0.05 * torch.randn(PADDED, 256, generator=generator)
    targets = torch.randint(0, VOCABULARY, (4096,), generator=generator)
    targets[::7] = cross_entropy.IGNORED
    x, weight, targets = x.to(DEVICE).requires_grad_(), weight.to(DEVICE).requires_grad_(), targets.to(DEVICE)
    caps = {"none": None, "sigmoid": Softcap("sigmoid", 23.0, 5.0, 7.5), "tanh": Softcap("tanh", 30.0, 0.0, 30.0)}
    found: Found = {}
    here, chosen = Machine(DEVICE, torch.bfloat16), cross_entropy.triton_serves

    def differentiated(cap: Softcap | None, triton: bool) -> Gradients:
        cross_entropy.triton_serves = chosen if triton else lambda device: False
        try:
            with here.autocast():
                loss = linear_cross_entropy(x, weight, targets, VOCABULARY, cap)
            grads = torch.autograd.grad(loss, (x, weight))
            return {"loss": loss.detach(), "x": grads[0], "weight": grads[1]}
        finally:
            cross_entropy.triton_serves = chosen

    for name, cap in caps.items():
        found[name] = _agree(differentiated(cap, True), differentiated(cap, False), 1e-2)
        tasks = {
            "triton": lambda cap=cap: differentiated(cap, True),
            "twin": lambda cap=cap: differentiated(cap, False),
        }
        for kind, seconds in here.rounds(tasks, 3).items():
            found[name][f"{kind}_milliseconds"] = min(seconds) * 1e3
            found[name][f"{kind}_megabytes"] = here.peak_megabytes(tasks[kind])
    return {"holds": chosen(DEVICE) and all(one["holds"] for one in found.values()), **found}


def graphs() -> Found:
    """Recorded micro-batches against the same without: not a bit may differ, over steps that accumulate and change size."""
    results = []
    for recorded in (False, True):
        config = Workload(("attention.backend=sdpa", "model.layers=3")).config()
        made: Any = assemble.model(config, TEXT)
        initialise(made, 0)
        made.to(DEVICE)
        optimizers = assemble.optimizers(config, assemble.groups(config, made))
        step = Differentiate(forward(made, "off", False), 4, torch.bfloat16, DEVICE)
        if recorded:
            step.record(list(made.parameters()), lambda: None)
        for rows in (8, 4, 6, 8):
            tokens = _batch(rows)
            step(DeviceBatch(tokens, tokens, tokens.numel()))
            optimizers.step()
            made.zero_grad(set_to_none=True)
        results.append({name: p.detach().clone() for name, p in made.named_parameters()})
    differ = [name for name, value in results[0].items() if not torch.equal(results[1][name], value)]
    return {"holds": not differ, "differ": differ}


def steps(words: tuple[str, ...], rounds: int) -> Found:
    """Training steps of a config on random text at its micro-batch: figures of the benchmark's section, and the config's name."""
    layers = Workload(words).config()["model"]["layers"]
    machine.forget_peak_memory(DEVICE)
    (row,) = model(Workload(words, vocabulary=VOCABULARY, rounds=rounds), Machine(DEVICE, torch.bfloat16))
    return {"layers": layers, **row, "peak_bytes": machine.peak_memory(DEVICE)}


def recorded_steps(words: tuple[str, ...], rounds: int) -> Found:
    """A micro-batch as a CUDA graph against without, in turn."""
    here = Machine(DEVICE, torch.bfloat16)
    plain, recorded = (Step(Workload(words).config(), here, VOCABULARY) for _ in range(2))
    recorded.record()
    found = here.rounds({"plain": plain.differentiate, "recorded": recorded.differentiate}, rounds)
    return {f"{name}_milliseconds": min(seconds) * 1e3 for name, seconds in found.items()}


def optimizers(rounds: int) -> Found:
    """A step of every method on the matrices of `baseline` and on those of `gpt2_124m`."""
    here = Machine(DEVICE, torch.bfloat16)
    sizes = {"24x1024x256": (24, 1024, 256), "48x3072x768": (48, 3072, 768)}
    return {
        name: optimizer_section(Workload(("device=cuda",), matrices=m, rounds=rounds), here)
        for name, m in sizes.items()
    }


CHECKS: dict[str, Callable[[], Found]] = {
    "fused head": head, "attention": attention, "bf16": bf16, "CUDA graphs": graphs, "regional": regional,
}  # fmt: skip
STEPS = {
    f"{experiment}, {name}": (f"experiment={experiment}", "device=cuda", "precision=bf16", *more)
    for experiment in ("baseline", "gpt2_124m")
    for name, more in (("compiled", ("compile=on",)), ("regional", ("compile=regional",)), ("eager", ("compile=off",)))
}
RECORDED = ("baseline, compiled", "gpt2_124m, compiled")  # also as CUDA graphs


def sentence(result: Found) -> str:
    """A result in a line."""
    if "skipped" in result or "error" in result:
        return str(result.get("skipped") or result["error"]).partition("\n")[0]
    if "holds" in result:
        return "holds" if result["holds"] else f"DOES NOT HOLD: {result}"
    if "tokens_per_second" in result:
        share = "" if result["mfu"] is None else f", MFU {result['mfu']:.1%}"
        return f"{result['tokens_per_second']:,.0f} tokens/s{share}, {result['peak_bytes'] / 1e9:.2f} GB at the peak"
    return ", ".join(f"{key} {value:.3g}" for key, value in result.items() if isinstance(value, float)) or "done"


def markdown(found: Found) -> str:
    """The figures as a page."""
    where = found["machine"]
    lines = [
        f"# {where['device']}, {found['date']}",
        "",
        f"torch {where['versions']['torch']}. Written by scripts/gpu_check.py.",
        "",
    ]
    for section in ("parity", "steps", "graphs"):
        lines += [f"## {section.capitalize()}", ""]
        lines += [f"- {name}: {sentence(result)}" for name, result in found.get(section, {}).items()] + [""]
    methods = found.get("optimizers", {}).get("all", {})
    for size, rows in methods.items():
        if isinstance(rows, list):
            lines += [
                f"## A step on {size} matrices",
                "",
                "| method | milliseconds | times faster than torch's Muon |",
                "|---|---|---|",
            ]
            figures = [(row["name"], row["milliseconds"], row.get("times_faster_than_torch_muon")) for row in rows]
            lines += [f"| {name} | {ms:.3g} | {ratio:.3g} |" for name, ms, ratio in figures if ms is not None] + [""]
    return "\n".join(lines)
