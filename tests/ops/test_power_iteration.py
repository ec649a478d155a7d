"""Power iteration: never above the SVD, within 1 % of it, warm restarts, zeros."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ramen.ops.power_iteration import spectral_norm, start_vector


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def exact(x: torch.Tensor) -> torch.Tensor:
    return torch.linalg.matrix_norm(x.double(), 2)


@pytest.mark.parametrize("shape", [(64, 64), (256, 32), (32, 256), (5, 1), (1, 5), (1, 1)])
def test_within_one_percent_and_never_above(shape):
    x = gaussian(4, *shape)
    u, previous = start_vector(x), torch.zeros(4)
    for _ in range(60):
        sigma, u = spectral_norm(x, u)
        assert (sigma <= exact(x) * (1 + 1e-6)).all()
        assert (sigma >= previous * (1 - 1e-6)).all()
        previous = sigma
    assert (sigma >= 0.99 * exact(x)).all()
    assert torch.allclose(torch.linalg.vector_norm(u, dim=-1), torch.ones(4), atol=1e-5)


def test_steps_compose():
    x = gaussian(3, 20, 30)
    sigma, u = spectral_norm(x, start_vector(x), steps=6)
    _, warm = spectral_norm(x, start_vector(x), steps=2)
    again, u_again = spectral_norm(x, warm, steps=4)
    assert torch.allclose(sigma, again, rtol=1e-5) and torch.allclose(u, u_again, atol=1e-5)


def test_left_singular_vector():
    x = torch.diag(torch.tensor([1.0, 5.0, 2.0]))
    sigma, u = spectral_norm(x, start_vector(x), steps=30)
    assert sigma.item() == pytest.approx(5.0, rel=1e-6)
    assert u[1].abs().item() == pytest.approx(1.0, rel=1e-6)


def test_zero_matrix_keeps_the_vector():
    x = gaussian(2, 4, 3)
    x[0] = 0
    u = start_vector(x)
    sigma, after = spectral_norm(x, u, steps=3)
    assert sigma[0] == 0 and torch.equal(after[0], u[0]) and sigma[1] > 0
    assert sigma.isfinite().all() and after.isfinite().all()


@settings(deadline=None, max_examples=40)
@example(exponent=-30, m=12, n=30, steps=1)
@example(exponent=30, m=30, n=12, steps=3)
@given(exponent=st.integers(-30, 30), m=st.integers(1, 30), n=st.integers(1, 30), steps=st.integers(1, 5))
def test_scales_with_the_matrix(exponent, m, n, steps):
    x = gaussian(m, n, seed=31 * m + n)
    sigma, u = spectral_norm(x, start_vector(x), steps=steps)
    scaled, u_scaled = spectral_norm(x * 10.0**exponent, start_vector(x), steps=steps)
    assert scaled.item() == pytest.approx(sigma.item() * 10.0**exponent, rel=1e-4)
    assert torch.allclose(u, u_scaled, atol=1e-3)
    assert sigma <= exact(x) * (1 + 1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dtypes_batches_and_determinism(dtype):
    x = gaussian(2, 3, 20, 10).to(dtype)
    u = start_vector(x)
    before = x.clone(), u.clone()
    assert u.shape == (2, 3, 20) and u.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.equal(u, start_vector(x)) and torch.allclose(u.norm(dim=-1), torch.ones(2, 3).to(u), atol=1e-6)
    assert u.is_contiguous()  # no two matrices share a vector's memory
    sigma, after = spectral_norm(x, u, steps=2)
    assert sigma.shape == (2, 3) and sigma.dtype == u.dtype == after.dtype
    one, _ = spectral_norm(x[1, 2], u[1, 2], steps=2)
    assert torch.allclose(one, sigma[1, 2], rtol=1e-5)
    assert torch.equal(x, before[0]) and torch.equal(u, before[1])
    for empty in ((0, 4, 4), (2, 0, 4), (2, 4, 0)):
        sigma, after = spectral_norm(torch.empty(empty), start_vector(torch.empty(empty)))
        assert sigma.shape == empty[:1] and after.shape == empty[:2] and (sigma == 0).all()
