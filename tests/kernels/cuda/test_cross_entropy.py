"""The Triton kernel, run by Triton's interpreter, against its plain torch twin. Needs the package triton, but no GPU."""

import ast
import os
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from ramen import kernels
from ramen.kernels.any.cross_entropy import chunked, cross_entropy_rows, softcap_numbers
from ramen.ops.cross_entropy import IGNORED, Softcap
from ramen.ops.operation import plain, twins

SOFTCAPS = {
    "none": None,
    "sigmoid": Softcap("sigmoid", limit=23.0, shift=5.0, scale=7.5),
    "tanh": Softcap("tanh", limit=30.0, shift=0.0, scale=30.0),
}
ROWS, VOCABULARY, PADDED = 7, 150, 160


INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
interpreted = pytest.mark.skipif(not INTERPRETED, reason="runs inside test_the_kernel_under_the_interpreter")


@pytest.mark.skipif(INTERPRETED, reason="is the process of this test's making")
@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
def test_the_kernel_under_the_interpreter(under_the_interpreter: Callable[[str], str]) -> None:
    assert "12 passed" in under_the_interpreter(__file__)


@pytest.mark.skipif(INTERPRETED or find_spec("triton") is None, reason="needs triton's compiler")
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("capped", [False, True])
def test_it_compiles_for_gpus_that_are_not_here(
    compiled_for: Callable[..., Any], capped: bool, capability: int
) -> None:
    from ramen.kernels.cuda.cross_entropy import BLOCK, EACH, WARPS, _row

    types = {"logits": "*bf16", "targets": "*i64", "losses": "*fp32"}
    types |= dict.fromkeys(("height", "slope", "offset", "gain", "lift"), "fp32")
    fixed = dict(stride=50304, vocabulary=50257, capped=capped, differentiated=True, block=BLOCK, each=EACH)
    result = compiled_for(_row, capability, types, fixed, num_warps=WARPS)
    assert result.metadata.shared < 48 * 1024
    assert (
        "ld.global.v4" in result.asm["ptx"] and "ld.local" not in result.asm["ptx"]
    )  # wide loads, no spilled registers
    arguments = re.findall(r"min\.NaN\.f32 \w, (%r\d+)", result.asm["ptx"])
    assert bool(arguments) == capped
    assert all(
        len(re.findall(rf"{name}\b", result.asm["ptx"])) > 1 for name in arguments
    )  # none is read that was never written


def test_annotations_inside_kernels_are_constants_alone() -> None:
    """Triton compiles them as code, which its interpreter does not."""
    module = ast.parse((Path(kernels.__file__).parent / "cuda" / "cross_entropy.py").read_text())
    functions = [node for node in module.body if isinstance(node, ast.FunctionDef)]
    jitted = [f for f in functions if "triton.jit" in map(ast.unparse, f.decorator_list)]
    said = [note for f in jitted for note in (f.returns, *(a.annotation for a in f.args.args)) if note]
    assert len(jitted) == 5 and set(map(ast.unparse, said)) == {"tl.constexpr"}


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    from ramen.kernels.cuda import cross_entropy as module

    monkeypatch.setattr(module, "BLOCK", 64)  # three blocks a row, the last one cut
    return module


def inputs(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 8 * torch.randn(ROWS, PADDED, generator=generator)
    logits[:, VOCABULARY:] = 100.0  # padding that would win
    targets = torch.randint(VOCABULARY, (ROWS,), generator=generator)
    targets[[0, 4]] = IGNORED
    return logits.to(dtype), targets


@interpreted
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("softcap", SOFTCAPS.values(), ids=SOFTCAPS)
def test_losses_and_gradient_are_the_twins(kernel: ModuleType, softcap: Softcap | None, dtype: torch.dtype) -> None:
    logits, targets = inputs(dtype)
    loss, gradient = plain(cross_entropy_rows)(logits.clone(), targets, VOCABULARY, softcap, True)
    losses = kernel.row_losses(logits, targets, VOCABULARY, *softcap_numbers(softcap), True)
    assert losses.shape == (ROWS,) and losses.dtype == torch.float32
    torch.testing.assert_close(losses.sum(), loss.sum(), rtol=1e-5, atol=1e-5)
    assert not losses[targets == IGNORED].any() and not logits[targets == IGNORED].any()
    assert not logits[:, VOCABULARY:].any()
    # The interpreter cuts bfloat16 where a GPU rounds it.
    close = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 2**-7, "atol": 1e-3}
    torch.testing.assert_close(logits, gradient, **close)


@interpreted
def test_an_evaluation_leaves_the_logits(kernel: ModuleType) -> None:
    logits, targets = inputs()
    before = logits.clone()
    losses = kernel.row_losses(logits, targets, VOCABULARY, *softcap_numbers(None), False)
    assert torch.equal(logits, before)
    torch.testing.assert_close(
        losses.sum(),
        plain(cross_entropy_rows)(before, targets, VOCABULARY, None, False)[0].sum(),
        rtol=1e-5,
        atol=1e-5,
    )


@interpreted
def test_a_target_out_of_range_is_seen(kernel: ModuleType) -> None:
    logits, targets = inputs()
    targets[1], targets[2] = VOCABULARY, -1
    losses = kernel.row_losses(logits, targets, VOCABULARY, *softcap_numbers(None), False)
    assert losses.isnan().tolist() == [False, True, True, False, False, False, False]


@interpreted
@pytest.mark.parametrize("softcap", SOFTCAPS.values(), ids=SOFTCAPS)
def test_the_head_runs_on_it_where_it_is_chosen(
    kernel: ModuleType, softcap: Softcap | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, weight = torch.randn(ROWS, 12, requires_grad=True), torch.randn(PADDED, 12, requires_grad=True)
    targets = inputs()[1]
    result = []
    for serving in (plain(cross_entropy_rows), twins(cross_entropy_rows)["cuda"]):
        monkeypatch.setitem(twins(cross_entropy_rows), "cpu", serving)
        loss = chunked(x, weight, targets, VOCABULARY, softcap, chunk_tokens=3)
        result.append((loss, *torch.autograd.grad(loss, (x, weight))))
    for expected, fused in zip(*result, strict=True):
        torch.testing.assert_close(fused, expected, rtol=1e-5, atol=1e-4)
