"""Activations: values and gradients by hand, and against autograd where the gradient is written out."""

from typing import get_args

import pytest
import torch

from ramen.ops.activation import ACTIVATIONS, GATES, Activation, nonlinearity

POINTS = (-2.0, -0.5, 0.0, 0.5, 2.0)
VALUES = {
    "relu": (0, 0, 0, 0.5, 2),
    "gelu": (-0.0455, -0.15427, 0, 0.34573, 1.9545),
    "silu": (-0.23841, -0.18877, 0, 0.31123, 1.76159),
    "linear": POINTS,
    "relu_squared": (0, 0, 0, 0.25, 4),
    "gelu_squared": (0.0021, 0.0238, 0, 0.1195, 3.8201),
    "silu_squared": (0.0568, 0.0356, 0, 0.0969, 3.1032),
    "bsilu": (-0.8743, -0.3933, 0, 0.5157, 2.3975),
    "nelu": (-0.01, -0.04, -0.05, -0.04, -0.01),
    "relu_nelu": (0, 0, 0, 0.5, 2),
}
SAME = {"swish": "silu", "identity": "linear", "swish_squared": "silu_squared"}


def gradient(function, x):
    x = x.clone().requires_grad_()
    function(x).sum().backward()
    return x.grad


@pytest.mark.parametrize("name", VALUES)
def test_values_by_hand(name):
    x = torch.tensor(POINTS)
    torch.testing.assert_close(ACTIVATIONS[name](x), torch.tensor(VALUES[name], dtype=torch.float32), atol=1e-4, rtol=0)


def test_fifteen_names_of_twelve_functions():
    assert set(get_args(Activation)) == {*ACTIVATIONS, *GATES}
    assert set(ACTIVATIONS) == {*VALUES, *SAME}
    assert all(ACTIVATIONS[name] is ACTIVATIONS[other] for name, other in SAME.items())
    x = torch.linspace(-3, 3, 13, dtype=torch.float64)
    behaviours = {(*ACTIVATIONS[n](x).tolist(), *gradient(ACTIVATIONS[n], x).tolist()) for n in VALUES}
    assert len(behaviours) == len(VALUES)


def test_gradient_of_relu_nelu_is_a_surrogate():
    expected = torch.tensor((-0.008, -0.032, 0, 1, 1))
    torch.testing.assert_close(gradient(ACTIVATIONS["relu_nelu"], torch.tensor(POINTS)), expected, atol=1e-6, rtol=0)
    below = torch.linspace(-4, 0, 9, dtype=torch.float64)
    torch.testing.assert_close(gradient(ACTIVATIONS["relu_nelu"], below), gradient(ACTIVATIONS["nelu"], below))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])  # in float32 it may be a kernel
def test_gradient_of_relu_squared_is_autograds(dtype):
    x = torch.randn(200, dtype=dtype, generator=torch.Generator().manual_seed(0))
    expected = gradient(lambda y: torch.relu(y).square(), x)
    torch.testing.assert_close(gradient(ACTIVATIONS["relu_squared"], x), expected)


@pytest.mark.parametrize("name", [n for n in VALUES if n != "relu_nelu"])
def test_gradients_are_those_of_the_values(name):
    x = torch.tensor([-1.7, -0.3, 0.4, 1.9], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ACTIVATIONS[name], x)


@pytest.mark.parametrize("name", get_args(Activation))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_keeps_the_type_and_does_not_touch_its_input(name, dtype):
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(1)).to(dtype)
    before = x.clone()
    function = nonlinearity(name)
    assert function(x).dtype == dtype and function(x).shape == (4, 6 // function.maps)
    assert gradient(function, x).dtype == dtype
    assert torch.equal(x, before)


@pytest.mark.parametrize(("name", "gate"), [("geglu", "gelu"), ("swiglu", "silu")])
def test_gated_pairs_take_the_gate_first(name, gate):
    first, second = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(nonlinearity(name)(torch.cat((first, second), -1)), ACTIVATIONS[gate](first) * second)


def test_refuses_another_name():
    with pytest.raises(ValueError, match=r"activation must be one of relu, .*swiglu, got 'mish'"):
        nonlinearity("mish")
