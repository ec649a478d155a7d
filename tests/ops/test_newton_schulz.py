"""Newton-Schulz: torch.optim.Muon's own routine is the oracle; bands; scale."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.optim._muon import _zeropower_via_newtonschulz

from ramen.kernels import plain_torch
from ramen.ops.newton_schulz import CONVERGING, MUON, newton_schulz


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(64, 64), (256, 64), (64, 256), (5, 9)])
def test_is_the_routine_of_torch_muon(shape):
    x = gaussian(*shape)
    oracle = _zeropower_via_newtonschulz(x, MUON, 5, 1e-7).float()
    y = newton_schulz(x)
    assert torch.linalg.vector_norm(y - oracle) < 0.03 * torch.linalg.vector_norm(oracle)  # bf16, another order


@pytest.mark.parametrize("shape", [(128, 128), (256, 64), (64, 256)])
def test_singular_values_in_band(shape):
    s = min(shape)
    u = torch.linalg.qr(gaussian(shape[0], s).double()).Q
    v = torch.linalg.qr(gaussian(shape[1], s, seed=1).double()).Q
    values = torch.logspace(0, -1.5, s, dtype=torch.float64)
    assert values[-1] / values.norm() > 2e-3
    x = (u * values) @ v.T
    for places in (("any",), ("none",)):  # the steps as written, and the Gram form
        with plain_torch(*places):
            exact = (u.T @ newton_schulz(x, dtype=torch.float64) @ v).diagonal()
        assert exact.min() > 0.68 and exact.max() < 1.2025
    rounded = torch.linalg.svdvals(newton_schulz(x, dtype=torch.bfloat16))
    assert rounded.min() > 0.65 and rounded.max() < 1.26


def test_slope_at_zero_is_the_product_of_the_first_coefficients():
    x = torch.diag(torch.tensor([1.0, 1e-7], dtype=torch.float64))
    assert newton_schulz(x, dtype=None)[1, 1].item() == pytest.approx(MUON[0] ** 5 * 1e-7, rel=1e-6)


def test_other_coefficients_converge():
    x = gaussian(3, 20, 30).double()
    u, _, vh = torch.linalg.svd(x, full_matrices=False)
    y = newton_schulz(x, steps=30, coefficients=(15 / 8, -10 / 8, 3 / 8), dtype=None)
    assert torch.allclose(y, u @ vh, atol=1e-8)


@settings(deadline=None, max_examples=25)
@example(exponent=-30, m=12, n=24)
@example(exponent=30, m=24, n=12)
@given(exponent=st.integers(-30, 30), m=st.integers(1, 24), n=st.integers(1, 24))
def test_scale_invariance_and_symmetries(exponent, m, n):
    x = gaussian(2, m, n, seed=m * 25 + n)
    y = newton_schulz(x)
    assert torch.equal(newton_schulz(x * 2.0 ** (3 * exponent)), y)
    assert torch.equal(newton_schulz(-x), -y)
    assert y.dtype == x.dtype and torch.linalg.matrix_norm(y, 2).max() < 1.3


def test_zero_stays_zero():
    assert torch.equal(newton_schulz(torch.zeros(2, 4, 3)), torch.zeros(2, 4, 3))


def test_converging_coefficients_take_every_value_to_one():
    u, v = (torch.linalg.qr(gaussian(12, 12, seed=seed).double()).Q for seed in (0, 1))
    x = u @ torch.logspace(0, -2.8, 12, dtype=torch.float64).diag() @ v
    y = newton_schulz(x, steps=12, coefficients=CONVERGING, dtype=None)
    assert (torch.linalg.svdvals(y) - 1).abs().max() < 1e-4
