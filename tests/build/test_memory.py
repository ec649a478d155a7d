"""The estimate of a step's memory against what torch's allocator counts while the step runs."""

import gc
import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from ramen.build.dry_run import dry_run, peak_bytes
from ramen.build.objects import build_groups, build_model, build_optimizers
from ramen.nn.gpt import DataSpec
from ramen.nn.parameter import initialise
from ramen.training.compilation import loss_function

ROOT = Path(__file__).resolve().parents[2]
TEXT = DataSpec(101, 0, 64)
SIZE = ("model.layers=3", "model.dim=64", "model.heads=4", "trainer.batch_tokens=512")
CASES = {
    "default": (),
    "accumulating": ("trainer.batch_tokens=1024",),
    "adamw": ("optimizer=adamw",),
    "wide": ("model.dim=128", "model.layers=1"),
    "streams": ("residual=mhc", "mlp=nff"),
    "aro_sinkhorn": ("optimizer=aro_sinkhorn", "mlp.activation=swiglu"),
    "soap_muon": ("optimizer=soap_muon",),
    "spectron": ("optimizer=spectron", "linear=low_rank", "stream=modded"),
    "untied": ("embedding=untied", "model.softcap=null"),
    "recomputing": ("trainer.activation_checkpointing=true", "model.layers=6"),
}


def estimated(
    config: dict[str, Any],
    rows: int,
    precision: torch.dtype = torch.float32,
    data: DataSpec = TEXT,
    device: str = "cpu",
) -> dict[str, int]:
    config["trainer"]["micro_batch_tokens"] = rows * data.sequence_length
    return dry_run(config, data, precision, device).costs["memory"]


def measured(config: dict[str, Any], rows: int, precision: torch.dtype) -> int:
    """Bytes that tensors take at the peak of a second step, parameters and optimizer state among them."""
    model: Any = build_model(config, TEXT)
    initialise(model, 0)
    loss_of = loss_function(model, "off", config["trainer"]["activation_checkpointing"])
    optimizers = build_optimizers(config, build_groups(config, model))
    tokens = torch.randint(1, TEXT.vocabulary, (rows, TEXT.sequence_length))

    def step() -> None:
        for _ in range(config["trainer"]["batch_tokens"] // tokens.numel()):
            with torch.autocast("cpu", precision, enabled=precision != torch.float32):
                loss = loss_of(tokens, tokens)
            loss.backward()
            del loss
        optimizers.step()
        model.zero_grad(set_to_none=True)

    step()
    gc.collect()
    tensors = [*model.parameters(), *model.buffers()]
    tensors += [
        v for o in optimizers.by_name.values() for s in o.state.values() for v in s.values() if torch.is_tensor(v)
    ]
    before = sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    now = peak = 0
    for event in profiler.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return before + peak


@pytest.mark.parametrize(
    ("name", "precision"), list(zip(CASES, itertools.cycle((torch.float32, torch.bfloat16)), strict=False))
)
def test_the_estimate_is_within_a_fifth_of_the_peak(
    compose: Callable[..., dict[str, Any]], name: str, precision: torch.dtype
) -> None:
    config = compose(*SIZE, *CASES[name])
    sizes = estimated(config, 8, precision)
    assert all(size > 0 for size in sizes.values())
    assert sum(sizes.values()) == pytest.approx(measured(config, 8, precision), rel=0.2)


def test_more_rows_take_more_and_recomputing_less(compose: Callable[..., dict[str, Any]]) -> None:
    rows = [estimated(compose(*SIZE), n)["activations"] for n in (8, 16, 32)]
    assert rows[0] < rows[1] < rows[2]
    again = estimated(compose(*SIZE, *CASES["recomputing"]), 32)["activations"]
    assert again < estimated(compose(*SIZE, "model.layers=6"), 32)["activations"] / 2


def test_a_gpus_head_takes_more_logits_at_a_time(compose: Callable[..., dict[str, Any]]) -> None:
    """1 << 28 of them, or all there are, in bfloat16; on a CPU 1 << 24."""
    config, text, rows = compose(*SIZE), DataSpec(1 << 19, 0, TEXT.sequence_length), 8
    cpu, cuda = (sum(estimated(config, rows, torch.bfloat16, text, kind).values()) for kind in ("cpu", "cuda"))
    logits = min(1 << 28, rows * text.sequence_length << 19)
    assert 0.7 < (cuda - cpu) / (2 * (logits - (1 << 24))) <= 1  # the CPU's peak is the optimizer's


def test_what_a_process_takes_is_more_than_its_tensors_and_what_a_gpu_tells_is_not() -> None:
    sizes = {"parameters": 10, "activations": 20}
    assert peak_bytes(sizes, "cpu", False) > 30
    assert peak_bytes(sizes, "cuda", False) == 30


def test_a_process_grows_as_estimated_and_recomputing_makes_it_smaller(tmp_path: Path) -> None:
    """Of a process of its own, in which nothing was freed before."""
    overrides = "model.layers=8", "trainer.steps=1", "precision=fp32", "threads=1", "data.validation_tokens=256"
    growth = {}
    for recompute in (True, False):
        folder = tmp_path / str(recompute)
        tokens = "trainer.batch_tokens=8192", "trainer.micro_batch_tokens=8192"
        command = [sys.executable, str(ROOT / "train.py"), *overrides, *tokens, f"hydra.run.dir={folder}"]
        command.append(f"trainer.activation_checkpointing={recompute}")
        subprocess.run(command, capture_output=True, timeout=300, check=True)
        summary = json.loads((folder / "summary.json").read_text())
        growth[recompute] = summary["peak_memory"]
        assert 0.7 < growth[recompute] / summary["memory_peak"] < 1.3
    assert growth[True] < growth[False] / 2
