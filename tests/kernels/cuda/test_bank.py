"""A bank's passes in Triton, run by Triton's interpreter, against their plain torch twin. Needs the package triton, but no GPU."""

import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor

from ramen.kernels import plain_torch
from ramen.ops import bank

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
HAS_TRITON = find_spec("triton") is not None
interpreted = pytest.mark.skipif(not INTERPRETED, reason="runs inside test_the_kernels_under_the_interpreter")
COUNTS = [1, 7, 8, 19]  # tensors: some of a launch's places, all of them, and those of several


def values(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def of(count: int, seed: int) -> list[Tensor]:
    return [values(2, 11, 53, seed=100 * seed + k) for k in range(count)]  # 1,166 numbers each: two blocks


@pytest.mark.skipif(INTERPRETED, reason="is the process of this test's making")
@pytest.mark.skipif(not HAS_TRITON, reason="triton is not installed")
def test_the_kernels_under_the_interpreter(under_the_interpreter: Callable[[str], str]) -> None:
    assert "40 passed" in under_the_interpreter(__file__)


@interpreted
@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("count", COUNTS)
def test_momentum_is_the_twins(count: int, nesterov: bool) -> None:
    from ramen.kernels.cuda import bank as bank_triton

    gradients, momentum = of(count, 1), values(2 * count, 11, 53, seed=2)
    twin = momentum.clone()
    with plain_torch():
        expected = bank.accumulate(gradients, twin, beta=0.9, nesterov=nesterov)
    for beta in (0.9, torch.tensor(0.9)):
        actual = momentum.clone()
        used = bank_triton.accumulate(gradients, actual, beta=beta, nesterov=nesterov)
        torch.testing.assert_close(actual, twin)
        torch.testing.assert_close(used, expected)
        assert (used is actual) == (not nesterov)


@interpreted
@pytest.mark.parametrize("special", [None, "decay_target", "step_scale", "decay 0"])
@pytest.mark.parametrize("cautious", [True, False])
@pytest.mark.parametrize("count", COUNTS)
def test_weights_are_the_twins(count: int, cautious: bool, special: str | None) -> None:
    from ramen.kernels.cuda import bank as bank_triton

    weights, direction = of(count, 3), values(2 * count, 11, 53, seed=4)
    decay_target = values(2 * count, 11, 53, seed=5) if special == "decay_target" else None
    step_scale = values(2 * count, 1, 1, seed=6).abs() if special == "step_scale" else None
    options: dict[str, Any] = {"decay": 0.0 if special == "decay 0" else 0.2, "cautious": cautious, "radius": None}
    options |= {"decay_target": decay_target, "step_scale": step_scale}
    expected = [w.clone() for w in weights]
    with plain_torch():
        bank.descend(expected, direction, rate=0.3, **options)
    bank_triton.descend(weights, direction, rate=torch.tensor(0.3), **options)
    torch.testing.assert_close(weights, expected)


@pytest.mark.skipif(INTERPRETED or not HAS_TRITON, reason="needs triton's compiler")
@pytest.mark.parametrize("capability", [80, 90])
def test_they_compile_for_gpus_that_are_not_here(compiled_for: Callable[..., Any], capability: int) -> None:
    """Into loads and stores of four numbers at once, wherever the tensors lie."""
    from ramen.kernels.cuda import bank as bank_triton

    def compiled(kernel: Any, sizes: dict[str, str], fixed: dict[str, Any], count: str = "i32") -> str:
        places = [name for name in kernel.arg_names if name[1:].isdigit()]
        types = dict.fromkeys(places, "*fp32") | sizes | {"first": "i32", "count": count}
        return compiled_for(kernel, capability, types, fixed | {"block": bank_triton.BLOCK}).asm["ptx"]

    tensors = dict.fromkeys(("momentum", "used", "beta"), "*fp32")
    text = compiled(bank_triton._accumulate, tensors, {"nesterov": True})
    assert text.count("ld.global.v4") == text.count("st.global.v4") == 2 * bank_triton.BLOCK // 512
    tensors = dict.fromkeys(("direction", "rate", "decay"), "*fp32") | {"elements": "i32"}
    text = compiled(bank_triton._descend, tensors, {"decay_target": None, "step_scale": None, "cautious": True})
    assert text.count("ld.global.v4") == 2 * text.count("st.global.v4") > 0
