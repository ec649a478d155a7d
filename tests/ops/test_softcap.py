"""The bounded curve of the logits: values, bounds, slope, inverse."""

import math

import pytest
import torch
from torch import nn

from ramen.ops.cross_entropy import Softcap

SIGMOID = Softcap("sigmoid", limit=23.0, shift=5.0, scale=7.5)
TANH = Softcap("tanh", limit=30.0, shift=0.0, scale=30.0)
RSQRT = Softcap("rsqrt", limit=15.0, shift=0.0, scale=15.0)
BOUNDS = {"sigmoid": (SIGMOID, 0.0, 23.0), "tanh": (TANH, -30.0, 30.0), "rsqrt": (RSQRT, -15.0, 15.0)}


def slope(softcap: Softcap, z: float) -> float:
    logit = torch.tensor(z, dtype=torch.float64, requires_grad=True)
    softcap(logit).backward()
    return logit.grad.item()


@pytest.mark.parametrize(
    ("softcap", "z", "value", "gradient"),
    [
        (SIGMOID, 0.0, 15.1974, 0.68742),
        (SIGMOID, -5.0, 11.5, 23 / 30),  # the steepest point
        (TANH, 0.0, 0.0, 1.0),
        (TANH, 30.0, 30 * math.tanh(1), 1 - math.tanh(1) ** 2),
        (RSQRT, 20.0, 15 * 20 / math.sqrt(20**2 + 225), 0.216),  # 15 z / sqrt(z^2 + 225); slope (1 + (4/3)^2)^-1.5
    ],
)
def test_value_and_slope_by_hand(softcap, z, value, gradient):
    assert softcap(torch.tensor(z, dtype=torch.float64)).item() == pytest.approx(value, abs=5e-5)
    assert slope(softcap, z) == pytest.approx(gradient, abs=5e-6)


@pytest.mark.parametrize("form", BOUNDS)
def test_bounded_and_strictly_rising(form):
    softcap, low, high = BOUNDS[form]
    capped = softcap(torch.linspace(-100, 100, 2001, dtype=torch.float64))
    assert low < capped.min() and capped.max() < high
    assert (capped.diff() > 0).all()


def test_the_sigmoid_has_the_inverse_of_the_sheet():
    z = torch.linspace(-30, 40, 141, dtype=torch.float64)
    torch.testing.assert_close(7.5 * torch.logit(SIGMOID(z) / 23) - 5, z)


def test_the_sigmoid_is_an_off_centre_tanh():
    """23 sigmoid((z + 5) / 7.5) = 11.5 tanh((z + 5) / 15) + 11.5, and a softmax sees no constant."""
    z = torch.linspace(-30, 40, 141, dtype=torch.float64)
    torch.testing.assert_close(SIGMOID(z) - 11.5, Softcap("tanh", limit=11.5, shift=5.0, scale=15.0)(z))


@pytest.mark.parametrize("wrong", [{"limit": 0.0}, {"limit": -1.0}, {"scale": 0.0}, {"scale": -7.5}])
def test_refuses_a_curve_that_is_flat_or_falls(wrong):
    with pytest.raises(ValueError, match=rf"must be > 0, got .*{next(iter(wrong.values()))}"):
        Softcap(**{"form": "sigmoid", "limit": 23.0, "shift": 5.0, "scale": 7.5} | wrong)


def test_the_input_is_left_alone():
    z = nn.Parameter(torch.ones(3))
    SIGMOID(z).sum().backward()
    assert torch.equal(z.data, torch.ones(3))
