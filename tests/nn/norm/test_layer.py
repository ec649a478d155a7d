"""LayerNorm: the formula, with torch's eps, and the bias only where it is asked for."""

import pytest
import torch

from ramen.nn.norm.layer import Layer


@pytest.mark.parametrize("bias", [False, True])
def test_is_the_formula(component, bias):
    norm = component("norm", "layer", 8, noise=0.3, bias=bias).double()
    x = 3 * torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(0)).double() + 5
    centred = x - x.mean(-1, keepdim=True)
    expected = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm.gain
    assert (norm.bias is not None) == bias and isinstance(norm, Layer)
    torch.testing.assert_close(norm(x), expected + norm.bias if bias else expected)


def test_a_gain_in_float32_is_not_rounded_to_the_inputs_type(component):
    norm, x = component("norm", "layer", 8), torch.ones(1, 8, dtype=torch.bfloat16)
    x[0, 0] = 2.0
    norm.gain.data.mul_(1.001)
    wide = norm(x.float())
    torch.testing.assert_close(norm(x), wide.bfloat16(), rtol=0, atol=0)
