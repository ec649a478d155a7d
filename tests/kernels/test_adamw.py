"""AdamW in one pass over memory is what torch's fused kernel and a masked decay give: in C, and by Triton's interpreter."""

import os
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ramen.kernels import plain_torch, status
from ramen.ops import adamw
from ramen.ops.adamw import cautious_adamw
from ramen.ops.operation import twins
from ramen.optimizer.adamw import AdamW

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
SHAPES = [(257, 33), (1, 7), (5,), (), (0, 4), (3, 1025), (16, 64)]
BY = [
    pytest.param("c", marks=pytest.mark.skipif(status() != "C kernels", reason=status())),
    pytest.param("triton", marks=pytest.mark.skipif(not INTERPRETED, reason="runs inside the test of the interpreter")),
]


@pytest.mark.skipif(INTERPRETED, reason="is the process of this test's making")
@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
def test_the_cuda_kernel_under_the_interpreter(under_the_interpreter: Callable[[str], str]) -> None:
    assert under_the_interpreter(__file__).count("triton] PASSED") == 3


@pytest.mark.skipif(INTERPRETED or find_spec("triton") is None, reason="needs triton's compiler")
@pytest.mark.parametrize("capability", [80, 90])
def test_it_compiles_for_gpus_that_are_not_here(compiled_for: Callable[..., Any], capability: int) -> None:
    from ramen.kernels.cuda.adamw import BLOCK, _step

    pointers = ("weights", "gradients", "firsts", "seconds", "corrections", "lr")
    types = dict.fromkeys(_step.arg_names[:-1], "fp32") | dict.fromkeys(pointers, "*fp32")
    types |= dict.fromkeys(("place", "tensors", "count"), "i32")
    result = compiled_for(_step, capability, types, {"block": BLOCK})
    assert (
        result.asm["ptx"].count("ld.global.v4") == 8 and "ld.local" not in result.asm["ptx"]
    )  # wide loads, none spilled


@pytest.fixture
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The kernel serves, and counts its calls."""
    serving = twins(cautious_adamw)
    if request.param == "triton":
        import_module("ramen.kernels.cuda.adamw")
        monkeypatch.setitem(serving, "cpu", serving["cuda"])
    real, calls = serving["cpu"], []
    monkeypatch.setitem(serving, "cpu", lambda *arguments, **more: (calls.append(1), real(*arguments, **more))[1])
    yield request.param
    assert calls


def values(shape: tuple[int, ...], seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make(lr: float | Tensor) -> AdamW:
    weights = [nn.Parameter(values(shape, seed)) for seed, shape in enumerate(SHAPES)]
    return AdamW(weights, lr=lr, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.3, cautious=True)


@pytest.mark.parametrize("kernel", BY, indirect=True)
def test_it_is_the_twin(kernel: str) -> None:
    """Over steps in which a parameter has no gradient, so that numbers of steps differ; gradients of all sizes."""
    ours, twin = make(0.02), make(0.02)
    for step in range(5):
        for optimizer in (ours, twin):
            for place, p in enumerate(optimizer.param_groups[0]["params"]):
                late = place == 1 and step < 2
                p.grad = None if late else values(p.shape, 10 * step + place, 10.0 ** (3 * place - 9))
        ours.step()
        with plain_torch():
            twin.step()
    states, others = ours.state_dict()["state"], twin.state_dict()["state"]
    assert states.keys() == others.keys()
    for place, state in states.items():
        assert state.keys() == others[place].keys()
        for name, value in state.items():
            assert (value - others[place][name]).norm() <= 1e-6 * value.norm(), f"{place} {name}"
    for a, b in zip(ours.param_groups[0]["params"], twin.param_groups[0]["params"], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kernel", BY, indirect=True)
def test_the_rate_may_be_a_tensor(kernel: str) -> None:
    """As it is on CUDA, where a recorded step reads it anew."""
    results = []
    for lr in (0.02, torch.tensor(0.02)):
        optimizer = make(0.02)
        optimizer.param_groups[0]["lr"] = lr
        weights = optimizer.param_groups[0]["params"]
        for seed, p in enumerate(weights):
            p.grad = values(p.shape, seed + 5)
        optimizer.step()
        results.append([p.detach().clone() for p in weights])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("kernel", BY[1:], indirect=True)
def test_it_is_made_before_the_first_step(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tensor, "is_cuda", True)
    adamw.warm(torch.ones(3))


@pytest.mark.skipif(status() != "C kernels", reason=status())
def test_it_serves_float32_as_it_lies_in_memory() -> None:
    def step(*weights: Tensor) -> object:
        moments = [[torch.zeros_like(w) for w in weights] for _ in range(2)]
        steps, numbers = [torch.zeros(()) for _ in weights], dict(lr=0.0, beta1=0.5, beta2=0.5, eps=1.0, decay=0.1)
        return twins(cautious_adamw)["cpu"](list(weights), list(weights), *moments, steps, **numbers)

    weight = torch.ones(4, 3)
    assert step(weight) is None
    for other in (weight.double(), weight.bfloat16(), torch.ones(3, 4).T):
        assert step(other) is NotImplemented and step(weight, other) is NotImplemented
