"""KromHC: a Kronecker product of 2 x 2 doubly stochastic matrices."""

import pytest
import torch

from ramen.nn.residual.kromhc import KromHC

DIM = 12


@pytest.fixture
def kromhc(component):
    """kromhc(streams, sublayer, **more): a connection."""
    return lambda streams=4, sublayer=1, **more: component("residual", "kromhc", DIM, sublayer, streams=streams, **more)


def values(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def matrices(module: KromHC, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    read, shift, write = module.weights(h)
    return read.squeeze(1), shift + torch.eye(h.shape[1]), write


@pytest.mark.parametrize(("streams", "read", "write"), [(2, 1.0, 2.0), (4, 1.538, 3.076), (8, 2.614, 5.228)])
def test_starts_as_the_paper(streams, read, write, kromhc):
    pre, res, post = matrices(kromhc(streams), values(5, streams, DIM))
    torch.testing.assert_close(pre.sum(-1), torch.full((5,), read), atol=1e-3, rtol=0)
    torch.testing.assert_close(post.sum(-1), torch.full((5,), write), atol=1e-3, rtol=0)
    torch.testing.assert_close(res, torch.eye(streams).expand(5, -1, -1), atol=2e-3, rtol=0)


@pytest.mark.parametrize("streams", [2, 4, 8])
def test_mixing_is_doubly_stochastic_symmetric_and_commutes(streams, kromhc):
    h = values(5, streams, DIM)
    _, one, _ = matrices(kromhc(streams, 0, noise=3.0), h)
    _, other, _ = matrices(kromhc(streams, 1, noise=2.0), h)
    for matrix in (one, other, one @ other):
        assert (matrix >= -1e-7).all()
        torch.testing.assert_close(matrix.sum(-1), torch.ones(5, streams), atol=1e-6, rtol=0)
        torch.testing.assert_close(matrix.sum(-2), torch.ones(5, streams), atol=1e-6, rtol=0)
        torch.testing.assert_close(matrix, matrix.mT, atol=1e-6, rtol=0)
    torch.testing.assert_close(one @ other, other @ one, atol=1e-6, rtol=0)


def test_mixing_by_hand(kromhc):
    module = kromhc(4, dynamic=False)
    with torch.no_grad():
        module.bias[8:] = torch.tensor([0.9, 0.1, 0.7, 0.3]).log()
    _, res, _ = matrices(module, values(1, 4, DIM))
    expected = torch.kron(torch.tensor([[0.9, 0.1], [0.1, 0.9]]), torch.tensor([[0.7, 0.3], [0.3, 0.7]]))
    torch.testing.assert_close(res[0], expected)


@pytest.mark.parametrize("flip", [1, 2, 3])
def test_flipping_bits_of_the_streams_numbers_permutes_the_result(flip, kromhc):
    module, h, order = kromhc(noise=0.5), values(2, 3, 4, DIM), torch.arange(4) ^ flip
    after = module.connect(h, torch.tanh)
    outputs = torch.cat([order, 4 + order, torch.arange(8, 12)])  # the factors stay: H_res does not change
    with torch.no_grad():
        module.bias.copy_(module.bias[outputs])
        module.weight.copy_(module.weight[outputs].view(-1, 4, DIM)[:, order].flatten(1))
    torch.testing.assert_close(module.connect(h[:, :, order], torch.tanh), after[:, :, order], atol=1e-5, rtol=1e-5)


def test_the_mixing_logits_are_alive_at_the_start(kromhc):
    module = kromhc(8)
    module.connect(values(7, 8, DIM), torch.tanh).square().mean().backward()
    assert (module.bias.grad.abs() > 1e-7).all()


def test_parameters(kromhc):
    assert sum(p.numel() for p in kromhc(4).parameters()) == 4 * DIM * (8 + 4) + 12 + 3
    assert sum(p.numel() for p in kromhc(8).parameters()) == 8 * DIM * (16 + 6) + 22 + 3


@pytest.mark.parametrize("streams", [1, 3, 6])
def test_refuses_what_is_no_power_of_two(streams, kromhc):
    with pytest.raises(ValueError, match=f"streams must be a power of two >= 2, got {streams}"):
        kromhc(streams)
