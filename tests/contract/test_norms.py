"""Every option of conf/norm: vectors of one size in the type they came in, and parameters that start as none would be."""

import pytest
import torch

from ramen.config.registry import factory, options
from ramen.nn.contracts import Norm
from ramen.nn.parameter import initialise, named_roles

DIM = 16


@pytest.fixture(params=options("norm"))
def norm(request, compose):
    """The norm of this option, initialised."""
    module = factory(compose(f"norm={request.param}")["norm"])(DIM)
    initialise(module, 0)
    return module


def values(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_is_of_its_kind_and_its_parameters_are_scalars(norm):
    assert isinstance(norm, Norm)
    assert {role for _, _, role in named_roles(norm)} <= {"scalar"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [0.1, 1.0, 1000.0])
def test_brings_vectors_of_any_size_to_rms_one_in_their_type(norm, dtype, size):
    norm.to(torch.float64 if dtype == torch.float64 else torch.float32)
    y = norm((size * values(2, 5, DIM)).to(dtype))
    assert y.shape == (2, 5, DIM) and y.dtype == dtype
    torch.testing.assert_close(y.double().square().mean(-1), torch.ones(2, 5).double(), rtol=0.01, atol=0)


def test_a_vector_of_zeros_stays_one_with_a_finite_gradient(norm):
    x = torch.zeros(3, DIM, requires_grad=True)
    y = norm(x)
    y.square().sum().backward()
    assert not y.any() and x.grad.isfinite().all()


def test_gradients_are_those_of_finite_differences(norm):
    norm.double()
    for parameter in norm.parameters():
        parameter.data += 0.1 * values(*parameter.shape)
    x = values(3, DIM).requires_grad_()
    names = [name for name, _ in norm.named_parameters()]

    def of(x, *parameters):
        return torch.func.functional_call(norm, dict(zip(names, parameters, strict=True)), (x,))

    assert torch.autograd.gradcheck(of, (x, *norm.parameters()))
