"""Every option of conf/mlp: returns a delta, alive in every parameter, of the width and parameters asked for."""

from typing import get_args

import pytest
import torch

from ramen.config.registry import options
from ramen.ops.activation import Activation

DIM, ROWS, TIME = 24, 2, 6
ACTIVATIONS = get_args(Activation)


@pytest.fixture(params=options("mlp"))
def name(request):
    return request.param


@pytest.fixture
def make(component):
    """make(name, dim=, noise=, seed=, **changes): an MLP with dense maps."""
    return lambda name, *, dim=DIM, **arguments: component("mlp", name, dim, **arguments)


def values(*shape: int, seed: int = 0) -> torch.Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return x / x.square().mean(-1, keepdim=True).sqrt()  # as the block gives it


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_returns_a_finite_delta_of_its_inputs_shape(name, make, activation):
    x = values(ROWS, TIME, DIM)
    before = x.clone()
    y = make(name, activation=activation, noise=0.1)(x)
    assert y.shape == x.shape and y.dtype == x.dtype and y.isfinite().all() and y.abs().max() > 0
    assert torch.equal(x, before)


def test_a_sublayer_that_starts_at_zero_adds_nothing(name, make, compose):
    node = compose(f"mlp={name}")["mlp"]
    y = make(name)(values(ROWS, TIME, DIM))
    if node.get("output_init_scale") == 0:
        assert not y.any()
    assert y.square().mean() < 0.2  # a delta, not x and a delta


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_parameter_has_a_gradient_after_two_steps(name, make, activation):
    module = make(name, activation=activation)
    x, target = values(ROWS, 32, DIM), values(ROWS, 32, DIM, seed=1)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        (module(x) - target).square().mean().backward()
        gradients = {key: p.grad for key, p in module.named_parameters()}
        optimizer.step()
        if hasattr(module, "after_step"):
            module.after_step()
    for key, gradient in gradients.items():
        assert gradient is not None and gradient.isfinite().all(), key
        banks = gradient if gradient.ndim == 3 else gradient[None]
        assert all(part.abs().max() > 1e-6 for part in banks), key


@pytest.mark.parametrize("activation", ["relu_squared", "silu", "swiglu"])
def test_bf16_is_close_to_fp32(name, make, activation):
    module, x = make(name, activation=activation, noise=0.1), values(ROWS, TIME, DIM)
    exact = module(x)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = module(x)
        narrow.float().sum().backward()
    assert (narrow.float() - exact).norm() < 0.05 * exact.norm()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in module.parameters())


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("expansion", [4, 2.5])
def test_matched_parameters_are_those_of_a_plain_mlp(name, make, activation, expansion):
    dim = 128
    module = make(name, dim=dim, activation=activation, expansion=expansion, match_parameters=True)
    count = sum(p.numel() for p in module.parameters())
    assert abs(count - 2 * expansion * dim**2) <= 0.01 * 2 * expansion * dim**2


def test_expansion_is_the_width_when_parameters_are_not_matched(name, make):
    module = make(name, dim=32, expansion=2.5, match_parameters=False)
    assert {80} <= {size for p in module.parameters() for size in p.shape}
    wider = make(name, dim=32, expansion=5, match_parameters=False)
    assert {160} <= {size for p in wider.parameters() for size in p.shape}


@pytest.mark.parametrize("activation", ["relu_squared", "swiglu"])
def test_maps_start_at_their_scales(name, make, compose, activation):
    """Entries of standard deviation scale / sqrt(columns), gates as others, the output map at its own scale."""
    if "init_scale" not in compose(f"mlp={name}")["mlp"]:
        return  # unit vectors
    module = make(name, dim=64, activation=activation, init_scale=0.5, output_init_scale=2.0)
    for key, p in module.named_parameters():
        for bank in p if p.role == "matrix" else ():
            scale = bank.std().item() * bank.shape[1] ** 0.5
            assert scale == pytest.approx(2.0 if key.startswith("down") else 0.5, rel=0.1), key


def test_maps_go_to_the_matrix_optimizer_and_nothing_else_does(name, make):
    for key, p in make(name).named_parameters():
        assert (p.role == "matrix") == (p.ndim == 3), key
