"""RMS norm against torch's own, forward and backward, and with a gain of 1 + g."""

from contextlib import nullcontext

import pytest
import torch
from torch.nn import functional as F

from ramen.kernels import plain_torch
from ramen.ops.rms_norm import EPS, rms_norm, rms_norm_gain

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 2e-2}


def values(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", [(3, 5, 16), (7, 1), (2, 3, 2, 4, 24)], ids=str)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize("kind", ["kernel", "plain", "mixed"])
def test_value_and_gradient_are_those_of_torch(dtype, shape, scale, kind):
    x, grad = values(*shape, dtype=dtype) * scale, values(*shape, dtype=dtype, seed=1)
    ours, theirs = x.clone().requires_grad_(), x.double().requires_grad_()
    with nullcontext() if kind == "kernel" else plain_torch(), torch.autocast("cpu", enabled=kind == "mixed"):
        rms_norm(ours).backward(grad)
    F.rms_norm(theirs, (shape[-1],), eps=EPS).backward(grad.double())
    assert ours.grad.dtype == rms_norm(x).dtype == dtype
    expected = F.rms_norm(x.double(), (shape[-1],), eps=EPS)
    torch.testing.assert_close(rms_norm(x).double(), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    # Relative to the gradient of a vector without eps: the width-1 case is a difference of equals.
    tolerance = TOLERANCE[dtype] * 3 / max(scale, EPS**0.5)
    torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=TOLERANCE[dtype], atol=tolerance)


def test_gradient_is_that_of_finite_differences():
    x = values(3, 6, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(rms_norm, x)


def test_a_gradient_in_bfloat16_is_rounded_once():
    x, grad = values(64, 256, dtype=torch.bfloat16), values(64, 256, dtype=torch.bfloat16, seed=1)
    grad = grad + x  # along the input, where it cancels

    def gradient(dtype):
        y = rms_norm(leaf := x.to(dtype, copy=True).requires_grad_())
        return torch.autograd.grad(y, leaf, grad.to(dtype))[0].double()

    exact = gradient(torch.float64)
    assert (gradient(torch.bfloat16) - exact).norm() < 1.1 * (exact.bfloat16() - exact).norm()


def test_root_mean_square_is_one():
    y = rms_norm(values(10, 64) * 100)
    torch.testing.assert_close(y.square().mean(-1), torch.ones(10), rtol=1e-6, atol=1e-6)


def test_a_zero_vector_stays_zero_with_a_finite_gradient():
    x = torch.zeros(2, 8, requires_grad=True)
    y = rms_norm(x)
    y.sum().backward()
    assert torch.equal(y, torch.zeros(2, 8))
    torch.testing.assert_close(x.grad, torch.full((2, 8), EPS**-0.5))


def test_strided_inputs_and_gradients():
    """Slices of a merged projection, as attention hands them over."""
    merged = values(2, 5, 3, 4, 8).requires_grad_()
    grad = values(8, 4, 2, 5, 2).permute(3, 2, 4, 1, 0)  # (5, 2, 2, 4, 8), not contiguous
    rms_norm(merged[:, :, :2]).backward(grad.transpose(0, 1))
    reference = merged.detach().clone().requires_grad_()
    F.rms_norm(reference[:, :, :2], (8,), eps=EPS).backward(grad.transpose(0, 1))
    torch.testing.assert_close(merged.grad, reference.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_second_derivative_is_refused_rather_than_wrong(dtype):
    x = values(3, 8).to(dtype).requires_grad_()
    (gradient,) = torch.autograd.grad(rms_norm(x).square().sum() + x.sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.square().sum().backward()


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
def test_a_gain_keeps_the_type(dtype):
    assert rms_norm_gain(torch.ones(2, 8, dtype=dtype), torch.zeros(8)).dtype == dtype
