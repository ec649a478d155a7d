"""Sinkhorn's scaling in Triton, run by Triton's interpreter, against its plain torch twin. Needs the package triton, but no GPU."""

import os
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest
import torch

from ramen.ops.doubly_stochastic import scaled
from ramen.ops.operation import plain, twins

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
HAS_TRITON = find_spec("triton") is not None
interpreted = pytest.mark.skipif(not INTERPRETED, reason="runs inside test_the_kernels_under_the_interpreter")


def on_cuda() -> Callable[..., torch.Tensor]:
    import_module("ramen.kernels.cuda.doubly_stochastic")
    return twins(scaled)["cuda"]


@pytest.mark.skipif(INTERPRETED, reason="is the process of this test's making")
@pytest.mark.skipif(not HAS_TRITON, reason="triton is not installed")
def test_the_kernels_under_the_interpreter(under_the_interpreter: Callable[[str], str]) -> None:
    assert "5 passed" in under_the_interpreter(__file__)


@interpreted
@pytest.mark.parametrize(("size", "tokens", "iterations"), [(2, 1, 1), (3, 40, 2), (4, 33, 20), (8, 7, 3)])
def test_values_are_the_twins(size: int, tokens: int, iterations: int) -> None:
    generator = torch.Generator().manual_seed(size)
    k = torch.softmax(4 * torch.randn(size, size, tokens, generator=generator), dim=1)
    torch.testing.assert_close(on_cuda()(k, iterations), plain(scaled)(k, iterations), rtol=1e-5, atol=1e-7)


@interpreted
def test_no_matrices_are_no_launch() -> None:
    assert on_cuda()(torch.ones(4, 4, 0), 3).shape == (4, 4, 0)


@pytest.mark.skipif(INTERPRETED or not HAS_TRITON, reason="needs triton's compiler")
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("size", [3, 4, 8])
def test_they_compile_for_gpus_that_are_not_here(compiled_for: Callable[..., Any], size: int, capability: int) -> None:
    import triton

    from ramen.kernels.cuda import doubly_stochastic as kernels

    fixed = {"iterations": 20, "size": size, "padded": triton.next_power_of_2(size), "tokens": kernels.TOKENS}
    types = dict.fromkeys(("matrices", "out"), "*fp32") | {"count": "i32"}
    result = compiled_for(kernels._scale, capability, types, fixed, num_warps=1)
    assert result.metadata.shared == 0  # a matrix is in one thread
