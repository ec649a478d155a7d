"""Reading, mixing and writing streams: values by einsum, gradients against finite differences."""

import pytest
import torch

from ramen.ops.rms_norm import rms_norm
from ramen.ops.streams import normed_linear, read_and_mix, write


def values(*shape: int, seed: int = 0) -> torch.Tensor:
    result = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return result.requires_grad_()


@pytest.mark.parametrize("shape", [(5, 7), (2, 3, 7)])
def test_normed_linear(shape):
    x, weight = values(*shape), values(4, 7, seed=1)
    torch.testing.assert_close(normed_linear(x, weight), rms_norm(x) @ weight.T)
    assert torch.autograd.gradcheck(normed_linear, (x, weight))
    assert normed_linear(torch.zeros(2, 7), weight.float()).isfinite().all()


def test_read_and_mix():
    h, read, shift = values(5, 3, 7), values(5, 2, 3, seed=1), values(5, 3, 3, seed=2)
    x, mixed = read_and_mix(h, read, shift)
    torch.testing.assert_close(x, torch.einsum("nfs,nsd->nfd", read, h))
    torch.testing.assert_close(mixed, h + torch.einsum("nts,nsd->ntd", shift, h))
    assert torch.autograd.gradcheck(read_and_mix, (h, read, shift))


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (normed_linear, [(5, 7), (4, 7)]),
        (read_and_mix, [(5, 3, 7), (5, 2, 3), (5, 3, 3)]),
        (write, [(5, 3, 2, 7), (5, 3, 2), (5, 2, 7)]),
    ],
)
def test_gradients_are_not_rounded_where_a_branch_is(function, shapes):
    """A compiler may run the backward pass under the forward pass's autocast."""
    inputs = [values(*shape, seed=seed).float() for seed, shape in enumerate(shapes)]

    def gradients():
        return torch.autograd.grad(loss, inputs, retain_graph=True)

    y = function(*inputs)
    loss = sum(part.square().sum() for part in (y if isinstance(y, tuple) else (y,)))
    exact = gradients()
    with torch.autocast("cpu", torch.bfloat16):
        assert all(torch.equal(actual, right) for actual, right in zip(gradients(), exact, strict=True))


def test_write():
    h, weight, delta = values(5, 3, 2, 7), values(5, 3, 2, seed=1), values(5, 2, 7, seed=2)
    torch.testing.assert_close(write(h, weight, delta), h + torch.einsum("nsf,nfw->nsfw", weight, delta))
    assert torch.autograd.gradcheck(write, (h, weight, delta))
