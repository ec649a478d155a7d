"""RMS norm with a gain of 1 + g."""

import pytest
import torch

from ramen.ops.rms_gain import rms_norm_gain
from ramen.ops.rms_norm import rms_norm


def test_zero_is_no_gain_and_gains_scale():
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(rms_norm_gain(x, torch.zeros(8)), rms_norm(x))
    gain = torch.linspace(-1, 1, 8)
    torch.testing.assert_close(rms_norm_gain(x, gain), rms_norm(x) * (1 + gain))


def test_a_gain_too_small_beside_one_in_the_type_is_not_lost():
    x = torch.randn(100, 1000, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert torch.tensor(1.003).bfloat16() == 1
    assert (rms_norm_gain(x, torch.full((1000,), 0.003)) != rms_norm(x)).double().mean() > 0.3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_keeps_the_type(dtype):
    assert rms_norm_gain(torch.ones(2, 8, dtype=dtype), torch.zeros(8)).dtype == dtype
