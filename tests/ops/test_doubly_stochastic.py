"""Doubly stochastic projections: exact whatever the logits and the iterations, right values, live gradients."""

import math
from contextlib import nullcontext

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ramen.kernels import plain_torch
from ramen.ops.doubly_stochastic import kronecker, orthostochastic, rounded, scaled, sinkhorn_knopp

PROJECTIONS = [sinkhorn_knopp, orthostochastic]


def logits(*shape: int, scale: float = 1.0, seed: int = 0, dtype=torch.float32) -> torch.Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def error(x: torch.Tensor) -> float:
    sums = torch.stack((x.sum(-1), x.sum(-2)))
    return (sums - 1).abs().max().item()


@pytest.mark.parametrize("project", PROJECTIONS)
@given(st.integers(2, 8), st.integers(1, 30), st.floats(0.01, 200), st.integers(0, 100))
def test_doubly_stochastic_whatever_the_logits(project, streams, iterations, scale, seed):
    x = project(logits(3, streams, streams, scale=scale, seed=seed), iterations)
    assert x.isfinite().all() and (x >= 0).all() and error(x) <= 2e-6


@pytest.mark.parametrize("project", PROJECTIONS)
def test_extreme_logits_give_finite_gradients(project):
    x = torch.tensor([[0.0, 300.0], [0.0, 300.0]]).repeat(2, 1, 1).requires_grad_()
    y = project(x, 20)
    y.square().sum().backward()
    assert error(y) <= 2e-6 and x.grad.isfinite().all()
    zero = project(torch.zeros(4, 4), 20)
    assert zero.isfinite().all() and error(zero) <= 2e-6


@pytest.mark.parametrize("project", PROJECTIONS)
def test_batches_and_permutations(project):
    x = logits(2, 3, 4, 4)
    y = project(x, 20)
    torch.testing.assert_close(y[1, 2], project(x[1, 2], 20))
    rows, columns = torch.tensor([2, 0, 3, 1]), torch.tensor([1, 3, 0, 2])
    torch.testing.assert_close(project(x[..., rows, :][..., columns], 20), y[..., rows, :][..., columns])
    torch.testing.assert_close(project(x.mT, 50), project(x, 50).mT, atol=1e-4, rtol=0)


def test_sinkhorn_converges_to_the_scaling_of_exp():
    x = logits(4, 4, dtype=torch.float64)
    y = sinkhorn_knopp(x, 200)
    ratio = (y / x.exp()).log()  # a sum of a row's and a column's term
    torch.testing.assert_close(ratio - ratio[:1] - ratio[:, :1] + ratio[0, 0], torch.zeros_like(x))
    assert (sinkhorn_knopp(x, 3) - y).abs().max() < 1e-6
    near = torch.eye(4) * 8 + logits(50, 4, 4, dtype=torch.float64, scale=0.5)  # where iterations alone hardly move
    assert (sinkhorn_knopp(near, 20) - sinkhorn_knopp(near, 20_000)).abs().max() < 1e-6


@pytest.mark.parametrize("iterations", [1, 3])
def test_scaling_ends_with_rows(iterations):
    k = expected = logits(4, 4, 5, dtype=torch.float64).exp()
    for axis in (0, 1) * iterations:
        expected = expected / expected.sum(axis, keepdim=True)
    torch.testing.assert_close(scaled(k, iterations), expected)


@pytest.mark.parametrize("by", [nullcontext, plain_torch], ids=["written out", "autograd"])
@pytest.mark.parametrize("streams", [2, 3, 4])
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_near_the_identity_the_gradient_is_that_of_the_values(by, streams, noise):
    """Where mHC starts: logits that change the result alike have gradients alike, and those of central differences."""
    start = -8 * (1 - torch.eye(streams)) + logits(streams, streams, dtype=torch.float64, scale=noise)
    weights, step = logits(streams, streams, dtype=torch.float64, seed=1), 1e-4
    with by():
        x = start.clone().requires_grad_()
        (results,) = torch.autograd.grad((sinkhorn_knopp(x, 20) * weights).sum(), x)
        moved = [start + sign * step * unit.view(streams, -1) for unit in torch.eye(streams**2) for sign in (1, -1)]
        values = (sinkhorn_knopp(torch.stack(moved), 20) * weights).sum((-2, -1)).view(-1, 2)
    expected = ((values[:, 0] - values[:, 1]) / (2 * step)).view(streams, -1)
    torch.testing.assert_close(results, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())
    for axis in (0, 1):  # a whole row or column of logits can rise and change nothing
        torch.testing.assert_close(results.sum(axis), torch.zeros(streams, dtype=torch.float64), rtol=0, atol=1e-7)


def test_sinkhorn_by_hand():
    off = math.exp(-8.0)
    x = sinkhorn_knopp(torch.tensor([[0.0, -8.0], [-8.0, 0.0]]), 5)
    expected = torch.tensor([[1.0, off], [off, 1.0]]) / (1 + off)
    torch.testing.assert_close(x, expected)


def test_orthostochastic_is_the_square_of_the_polar_factor():
    x = logits(5, 4, 4, dtype=torch.float64)
    u, _, vh = torch.linalg.svd(x)
    torch.testing.assert_close(orthostochastic(x, 30), (u @ vh).square(), atol=1e-8, rtol=0)
    torch.testing.assert_close(orthostochastic(x, 20), (u @ vh).square(), atol=1e-6, rtol=0)


def test_eight_steps_find_the_polar_factor_of_nearly_all_matrices():
    """Steps that are steep at zero, then steps that are flat at one and have no curvature there: any others would find fewer."""
    x = logits(2000, 4, 4, dtype=torch.float64)
    u, _, vh = torch.linalg.svd(x)
    wrong = (orthostochastic(x, 8) - (u @ vh).square()).abs().amax((-2, -1))
    assert (wrong < 1e-4).double().mean() > 0.97


def test_rounding_leaves_a_doubly_stochastic_matrix_and_mends_others():
    good = sinkhorn_knopp(logits(6, 4, 4, dtype=torch.float64), 100)
    torch.testing.assert_close(rounded(good), good, atol=1e-12, rtol=0)
    poor = logits(6, 4, 4).abs()
    assert error(rounded(poor)) <= 1e-6 and (rounded(poor) >= 0).all()
    assert error(rounded(torch.zeros(3, 3))) <= 1e-6


@pytest.mark.parametrize("project", PROJECTIONS)
@pytest.mark.parametrize("iterations", [6, 20])
def test_gradient_is_that_of_the_values(project, iterations):
    x = logits(2, 3, 3, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda y: project(y, iterations), x, atol=1e-5)


def test_kronecker_is_torchs_and_keeps_the_property():
    p = torch.tensor([0.9, 0.6, 0.3])
    factors = torch.stack([torch.stack([p, 1 - p], -1), torch.stack([1 - p, p], -1)], -2)  # (3, 2, 2)
    expected = torch.kron(torch.kron(factors[0], factors[1]), factors[2])
    torch.testing.assert_close(kronecker(factors), expected)
    torch.testing.assert_close(kronecker(factors.expand(5, 3, 2, 2))[4], expected)
    uneven = logits(2, 3, 3)
    torch.testing.assert_close(kronecker(uneven), torch.kron(uneven[0], uneven[1]))
    assert error(kronecker(factors)) <= 1e-6


@pytest.mark.parametrize("iterations", [1, 5, 20])
@pytest.mark.parametrize("project", PROJECTIONS)
def test_no_gradient_of_many_is_beyond_what_exact_arithmetic_gives(project, iterations):
    """Where rounding leaves rows exact and columns short, or the other way round, too: one such token would spoil a step."""

    def sizes(dtype):
        x = (torch.eye(4) + logits(10_000, 4, 4, scale=0.3)).to(dtype, copy=True).requires_grad_()
        (project(x, iterations) * logits(10_000, 4, 4, seed=1, dtype=dtype)).sum().backward()
        return x.grad.flatten(1).norm(dim=1)

    assert sizes(torch.float32).max() < 2 * sizes(torch.float64).max()
