"""Balanced axes and Sinkhorn: exact norms, equivariances, invariance to scaling, zeros."""

from functools import partial

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ramen.kernels import plain_torch
from ramen.ops.sinkhorn import balance_axes, sinkhorn

SHAPES = [(64, 64), (96, 24), (24, 96), (1, 7), (7, 1)]


def gaussian(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def norms(x: torch.Tensor, axis: int) -> torch.Tensor:
    return torch.linalg.vector_norm(x.double(), dim=axis)


def close(x: torch.Tensor, value: float | torch.Tensor, tolerance: float = 1e-5) -> bool:
    return bool(((x - value).abs() <= tolerance).all())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("half", [False, True])
def test_last_axis_is_exact(shape, steps, half):
    m, n = shape
    x = gaussian(3, m, n) * torch.exp(gaussian(3, m, 1, seed=1))
    y = balance_axes(x, steps=steps, half=half)
    assert close(norms(y, -2 if m > n else -1), 1.0, 1e-6)
    assert close(torch.linalg.matrix_norm(y.double()), min(m, n) ** 0.5, 1e-5)


def test_order_and_half_form():
    wide = gaussian(8, 20)
    columns = wide / norms(wide, -2).float()
    assert close(balance_axes(wide), columns / norms(columns, -1).float()[:, None], 1e-6)
    assert close(balance_axes(wide, half=True), wide / norms(wide, -1).float()[:, None], 1e-6)
    tall = wide.mT
    assert close(balance_axes(tall, half=True), tall / norms(tall, -2).float(), 1e-6)
    assert close(balance_axes(wide, steps=3, half=True), balance_axes(balance_axes(wide, half=True), steps=2), 1e-6)
    square = gaussian(9, 9)
    assert close(balance_axes(square, half=True), square / norms(square, -1).float()[:, None], 1e-6)


def test_other_axis_converges():
    x = gaussian(256, 64) * torch.exp(gaussian(256, 1, seed=1)) * torch.exp(gaussian(1, 64, seed=2))
    assert close(norms(balance_axes(x, steps=3), -1), 0.5, 5e-3)
    assert close(norms(balance_axes(x, steps=8), -1), 0.5, 1e-5)


@pytest.mark.parametrize("shape", [(96, 24), (24, 96), (40, 41)])
@pytest.mark.parametrize("steps", [1, 4])
def test_transpose_and_permutation_equivariance(shape, steps):
    x = gaussian(*shape)
    y = balance_axes(x, steps=steps)
    assert close(balance_axes(x.mT, steps=steps), y.mT, 1e-6)
    rows, columns = torch.randperm(shape[0]), torch.randperm(shape[1])
    assert close(balance_axes(x[rows][:, columns], steps=steps), y[rows][:, columns], 1e-6)
    assert torch.equal(balance_axes(-x, steps=steps), -y)


def test_invariance_to_diagonal_scaling():
    x = gaussian(48, 20).abs() + 0.1  # positive: Sinkhorn's theorem, and a fast limit
    left, right = torch.exp(gaussian(48, 1, seed=1)), torch.exp(gaussian(1, 20, seed=2))
    assert close(balance_axes(x * left), balance_axes(x), 1e-6)  # the axis normalised first: exactly
    assert not close(balance_axes(x * right), balance_axes(x), 1e-3)
    assert close(balance_axes(left * x * right, steps=20), balance_axes(x, steps=20), 1e-6)
    assert close(sinkhorn(left * x * right, steps=20), sinkhorn(x, steps=20), 1e-5)


@pytest.mark.parametrize("shape", [(64, 64), (96, 24), (24, 96)])
def test_sinkhorn_norms(shape):
    x = gaussian(2, *shape)
    y = sinkhorn(x, steps=5)
    rms = norms(y, -2) / shape[0] ** 0.5
    assert close(rms, 1.0, 1e-6)
    assert close(y.double().square().mean(dim=(-2, -1)).sqrt(), 1.0, 1e-6)
    rows = norms(y, -1)
    assert (rows.std(dim=-1) / rows.mean(dim=-1)).max() < 1e-3
    rows = norms(sinkhorn(x, steps=15), -1) / shape[1] ** 0.5
    assert close(rows, 1.0, 1e-5)


def test_sinkhorn_is_alternating_rms_normalisation():
    x = y = gaussian(12, 30, dtype=torch.float64)
    for _ in range(5):
        y = y * 30**0.5 / norms(y, -1)[:, None]
        y = y * 12**0.5 / norms(y, -2)
    assert close(sinkhorn(x, steps=5), y, 1e-12)


@pytest.mark.parametrize("function", [balance_axes, sinkhorn])
@pytest.mark.parametrize("shape", [(20, 20), (40, 10), (10, 40)])
def test_zero_rows_and_columns_stay_zero(function, shape):
    assert torch.equal(function(torch.zeros(2, *shape)), torch.zeros(2, *shape))
    x = gaussian(*shape)
    x[3], x[:, 5] = 0, 0
    y = function(x)
    assert y.isfinite().all() and (y[3] == 0).all() and (y[:, 5] == 0).all()
    saved = torch.ones(shape[1], dtype=torch.bool)
    saved[5] = False
    if function is sinkhorn:
        assert close(norms(y, -2)[saved] / shape[0] ** 0.5, 1.0, 1e-6)
    x[1] *= 1e-12  # small, but a row like any other
    assert norms(function(x, steps=3), -1)[1] > 0.1


@settings(deadline=None, max_examples=40)
@example(exponent=-30, m=12, n=40, steps=1, function=balance_axes)
@example(exponent=30, m=40, n=12, steps=1, function=sinkhorn)
@given(
    exponent=st.integers(-30, 30),
    m=st.integers(1, 40),
    n=st.integers(1, 40),
    steps=st.integers(1, 6),
    function=st.sampled_from([balance_axes, sinkhorn]),
)
def test_scale_invariance(exponent, m, n, steps, function):
    x = gaussian(m, n, seed=m * 41 + n)
    y = function(x, steps=steps)
    assert close(function(x * 10.0**exponent, steps=steps), y, 1e-4)
    assert torch.equal(function(x, steps=steps), y)


@pytest.mark.parametrize("function", [balance_axes, sinkhorn])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_batches_and_dtypes(function, dtype):
    x = gaussian(2, 3, 500, 200, dtype=dtype)  # more than one chunk
    before = x.clone()
    y = function(x)
    assert y.shape == x.shape and y.dtype == dtype and torch.equal(x, before)
    looped = torch.stack([function(one) for one in x.flatten(0, 1)]).view_as(x)
    assert torch.allclose(y.double(), looped.double(), rtol=0.02 if dtype == torch.bfloat16 else 1e-5, atol=1e-6)
    rounded = function(x.double()).to(dtype)  # a result of 16 bits is rounded once
    assert (y.double() - rounded.double()).norm() <= {torch.bfloat16: 1e-3}.get(dtype, 1e-6) * rounded.double().norm()
    for empty in ((0, 4, 4), (2, 0, 4), (2, 4, 0)):
        assert function(torch.empty(empty, dtype=dtype)).shape == empty


def test_compiles_in_one_graph():
    x = gaussian(3, 12, 8)
    for function in (balance_axes, sinkhorn):
        compiled = torch.compile(function, fullgraph=True, backend="eager")
        assert close(compiled(x), function(x), 1e-6)


@pytest.mark.parametrize("shape", [(3, 37, 21), (2, 21, 37), (40, 40), (1, 9), (9, 1), (2, 130, 65)])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_the_kernel_equals_torch(shape, steps):
    for scale in (1e-30, 1e3, 1e30):
        x = gaussian(*shape) * scale
        x[..., 0, :] *= 1e-6
        for function in (balance_axes, sinkhorn, partial(balance_axes, half=True)):
            with plain_torch():
                expected = function(x, steps=steps)
            torch.testing.assert_close(function(x, steps=steps), expected, rtol=2e-5, atol=2e-6)


def test_what_is_not_a_number_is_not_hidden():
    x = gaussian(2, 12, 8)
    x[0, 3, 2] = float("nan")
    for function in (balance_axes, sinkhorn):
        assert function(x)[0].isnan().any() and function(x)[1].isfinite().all()
