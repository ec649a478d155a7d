"""The orthonormal factor: both algorithms on inputs that break Cholesky QR and Gram-Schmidt."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ramen.kernels.cuda.orthonormal import cholesky_qr
from ramen.ops.operation import twins
from ramen.ops.orthonormal import factor_unit_columns, noise, orthonormal_factor, unit_columns


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cases(m: int, s: int) -> dict[str, torch.Tensor]:
    a = gaussian(m, s)
    half = max(1, s // 2)
    striped = a.clone()
    striped[:, ::2] = 0
    return {
        "gaussian": a,
        "zero": torch.zeros(m, s),
        "ones": torch.ones(m, s),
        "identity": -torch.eye(m, s),
        "rank one": a[:, :1] @ gaussian(1, s, seed=1),
        "constant columns": torch.ones(m, 1) @ gaussian(1, s, seed=1),
        "half rank": a[:, :half] @ gaussian(half, s, seed=1),
        "tiny": a * 1e-30,
        "huge": a * 1e30,
        "column scales": a * torch.logspace(-20, 20, s),
        "row scales": a * torch.logspace(-15, 15, m)[:, None],
        "hilbert": 1 / (torch.arange(m)[:, None] + torch.arange(s) + 1.0),
        "zero columns": striped,
        "shifted identity": torch.roll(torch.eye(m, s), 1, 0) * (torch.arange(s) % 2),
        "gram": (a @ a.mT)[:, :s],
        "own noise": noise(a).float(),
        "minus own noise": -noise(a).float(),
    }


def defect(q: torch.Tensor) -> float:
    q = q.double()
    return (q.mT @ q - torch.eye(q.shape[-1], dtype=torch.float64)).abs().max().item()


@pytest.fixture(params=["householder", "cholesky"])
def factor(request, monkeypatch):
    """orthonormal_factor as on a CPU, and with CUDA's algorithm in its place."""
    if request.param == "cholesky":
        monkeypatch.setitem(twins(factor_unit_columns), "cpu", cholesky_qr)
    return orthonormal_factor


@pytest.mark.parametrize("shape", [(256, 256), (384, 96), (8, 8), (40, 7), (3, 2), (1, 1), (5, 1)])
def test_orthonormal_whatever_comes(factor, shape):
    for name, a in cases(*shape).items():
        q = factor(a)
        assert q.isfinite().all() and defect(q) < 3e-6, name


@pytest.mark.parametrize("shape", [(64, 64), (100, 30)])
def test_spans_and_signs(factor, shape):
    a = gaussian(2, *shape)
    r = factor(a).double().mT @ a.double()
    assert torch.tril(r, -1).abs().max() < 1e-4  # R is upper triangular
    assert (r.diagonal(dim1=-2, dim2=-1) > 0).all()
    q64 = factor(a.double())
    assert torch.allclose(factor(a).double(), q64, atol=2e-4)
    assert torch.allclose(factor(-a.double()), -q64, atol=1e-6)
    for scale in (1e-30, 1e30):
        assert torch.allclose(factor(a * scale).double(), q64, atol=2e-4)


def test_rank_deficient_keeps_the_leading_columns(factor):
    a = gaussian(50, 10).double()
    deficient = torch.cat([a, a @ gaussian(10, 15).double()], dim=1)
    assert torch.allclose(factor(deficient)[:, :10], factor(a), atol=1e-6)


def test_left_equivariance(factor):
    a = gaussian(40, 40).double()
    u = torch.linalg.qr(gaussian(40, 40, seed=1).double()).Q
    assert torch.allclose(factor(u @ a), u @ factor(a), atol=1e-5)


@settings(deadline=None, max_examples=30)
@given(exponent=st.integers(-30, 30), s=st.integers(1, 24), extra=st.integers(0, 24), rank=st.integers(0, 24))
def test_scale_invariance(exponent, s, extra, rank):
    a = gaussian(s + extra, rank, seed=s) @ gaussian(rank, s, seed=extra)
    for algorithm in (factor_unit_columns, cholesky_qr):
        assert defect(algorithm(unit_columns(a))) < 3e-6
    q = orthonormal_factor(a)
    assert torch.equal(orthonormal_factor(a * 2.0 ** (2 * exponent)), q)
    assert torch.equal(orthonormal_factor(a), q)


def test_batches_and_dtypes(factor):
    a = gaussian(2, 3, 20, 8)
    a[1, 1] = 0
    before = a.clone()
    q = factor(a)
    assert torch.equal(a, before) and q.shape == a.shape
    assert torch.allclose(q[0, 2], factor(a[0, 2]), atol=1e-6)
    assert factor(a.bfloat16()).dtype == torch.float32
    assert factor(a.double()).dtype == torch.float64
    for empty in ((0, 4, 4), (2, 4, 0), (0, 0)):
        assert factor(torch.empty(empty)).shape == empty
