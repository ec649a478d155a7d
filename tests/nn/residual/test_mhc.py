"""mHC: the paper's formulas, its start, doubly stochastic mixing, orientation, live gradients."""

import math

import pytest
import torch

from ramen.nn.residual.mhc import MHC
from ramen.ops.doubly_stochastic import sinkhorn_knopp
from ramen.ops.rms_norm import rms_norm

DIM = 12
SIGMOID_1 = 1 / (1 + math.exp(-1))


@pytest.fixture
def mhc(component):
    """mhc(streams, sublayer, **more): a connection."""
    return lambda streams=4, sublayer=1, **more: component("residual", "mhc", DIM, sublayer, streams=streams, **more)


def values(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def matrices(module: MHC, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """H_pre (N, S), H_res (N, S, S), H_post (N, S) of h (N, S, D)."""
    read, shift, write = module.weights(h)
    return read.squeeze(1), shift + torch.eye(h.shape[1]), write


def test_formula(mhc):
    module, h = mhc(3, noise=0.5), values(5, 3, DIM)
    c, w, b = module.scale, module.weight, module.bias
    for n in range(5):
        projected = w @ rms_norm(h[n].flatten())
        pre = torch.sigmoid(c[0] * projected[:3] + b[:3])
        post = 2 * torch.sigmoid(c[1] * projected[3:6] + b[3:6])
        res = sinkhorn_knopp((c[2] * projected[6:] + b[6:]).view(3, 3), 20)
        expected = res @ h[n] + post[:, None] * torch.tanh(pre @ h[n])
        torch.testing.assert_close(module.connect(h[n], torch.tanh), expected, atol=1e-5, rtol=1e-5)


def test_starts_as_the_paper(mhc):
    pre, res, post = matrices(mhc(sublayer=6), values(5, 4, DIM))
    separate = torch.tensor([1 - SIGMOID_1] * 4)
    separate[6 % 4] = SIGMOID_1
    torch.testing.assert_close(pre, separate.expand(5, 4))
    torch.testing.assert_close(post, 2 * separate.expand(5, 4))
    off = math.exp(-8) / (1 + 3 * math.exp(-8))
    torch.testing.assert_close(res, torch.eye(4).expand(5, 4, 4), atol=1.1 * 3 * off, rtol=0)
    torch.testing.assert_close(res[0, 0, 1].item(), off, rtol=1e-3, atol=0)


@pytest.mark.parametrize("streams", [2, 4, 8])
def test_starts_as_a_standard_stream_with_a_stream_of_its_own(streams, mhc):
    pre, _, post = matrices(mhc(streams, init="identity"), values(5, streams, DIM))
    torch.testing.assert_close(pre.sum(-1), torch.ones(5))
    assert torch.equal(post, torch.ones(5, streams))
    assert pre[0].argmax() == 1 and pre[0, 1].item() == pytest.approx(SIGMOID_1)


@pytest.mark.parametrize("identity_mix", [None, 0.3])
@pytest.mark.parametrize("iterations", [1, 20])
@pytest.mark.parametrize("projection", ["sinkhorn", "orthostochastic"])
def test_mixing_is_doubly_stochastic_at_every_token_and_depth(projection, iterations, identity_mix, mhc):
    product = torch.eye(4)
    for sublayer in range(8):
        changes = {"projection": projection, "iterations": iterations, "identity_mix": identity_mix}
        _, res, _ = matrices(mhc(sublayer=sublayer, noise=1.0, **changes), values(5, 4, DIM))
        product = res @ product
        for matrix in (res, product):
            assert (matrix >= -1e-6).all()
            torch.testing.assert_close(matrix.sum(-1), torch.ones(5, 4), atol=3e-6, rtol=0)
            torch.testing.assert_close(matrix.sum(-2), torch.ones(5, 4), atol=3e-6, rtol=0)
    assert not torch.equal(res[0], res[1])  # each token has its own


def test_row_t_of_the_mixing_matrix_makes_stream_t(mhc):
    module = mhc(3, dynamic=False)
    with torch.no_grad():  # a cycle: new 0 from 1, new 1 from 2, new 2 from 0
        module.bias[6:] = 30 * torch.tensor([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]]).flatten()
    h = values(1, 1, 3, DIM)
    after = module.connect(h, torch.zeros_like)
    torch.testing.assert_close(after, h[:, :, [1, 2, 0]], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.parametrize("identity_mix", [None, 0.01])
@pytest.mark.parametrize("projection", ["sinkhorn", "orthostochastic"])
def test_the_mixing_logits_are_alive_at_the_start(projection, identity_mix, dynamic, mhc):
    module, h = mhc(projection=projection, identity_mix=identity_mix, dynamic=dynamic), values(7, 4, DIM)
    module.connect(h, torch.tanh).square().mean().backward()
    mixing, identity = module.bias.grad[8:].tensor_split((16,))
    off_diagonal = mixing.view(4, 4)[~torch.eye(4, dtype=torch.bool)]
    assert (off_diagonal.abs() > 1e-7).all()
    if identity_mix:
        assert identity.abs() > 1e-5


def test_an_identity_mix_leaves_no_parameter_without_a_gradient(build_gpt, rows):
    """In the first sublayer and in the last mixing moves nothing: its numbers stand beside others that do."""
    model, tokens = build_gpt("residual=mhc", "residual.identity_mix=0.3", noise=0.3), rows((12,))
    model(tokens, tokens).backward()
    assert [name for name, p in model.named_parameters() if not p.grad.any()] == []


@pytest.mark.parametrize(("identity_mix", "separate"), [(None, 0.995), (0.01, 0.99)])
@pytest.mark.parametrize("projection", ["sinkhorn", "orthostochastic"])
def test_mixing_starts_near_the_identity(projection, identity_mix, separate, mhc):
    _, res, _ = matrices(mhc(projection=projection, identity_mix=identity_mix), values(5, 4, DIM))
    assert (res.diagonal(dim1=-2, dim2=-1) >= separate - 1e-6).all()
    if identity_mix is None:  # by either projection as near as the other
        off_diagonal = res[:, ~torch.eye(4, dtype=torch.bool)]
        torch.testing.assert_close(off_diagonal, torch.full_like(off_diagonal, math.exp(-8)), rtol=0.1, atol=0)


def test_permuting_streams_permutes_the_result(mhc):
    module, h, order = mhc(noise=0.5), values(2, 3, 4, DIM), torch.tensor([2, 0, 3, 1])
    after = module.connect(h, torch.tanh)
    mix = 8 + (4 * order[:, None] + order).flatten()
    outputs = torch.cat([order, 4 + order, mix])
    with torch.no_grad():
        module.bias.copy_(module.bias[outputs])
        module.weight.copy_(module.weight[outputs].view(-1, 4, DIM)[:, order].flatten(1))
    torch.testing.assert_close(module.connect(h[:, :, order], torch.tanh), after[:, :, order], atol=1e-5, rtol=1e-5)


def test_parameters(mhc):
    # Weights S D (S^2 + 2 S), as many biases as outputs, three scales.
    assert sum(p.numel() for p in mhc().parameters()) == 4 * DIM * 24 + 24 + 3
    assert sum(p.numel() for p in mhc(dynamic=False, identity_mix=0.5).parameters()) == 24 + 1
    assert sum(p.numel() for p in mhc(identity_mix=0.5).parameters()) == 4 * DIM * 25 + 25 + 3


@pytest.mark.parametrize("identity_mix", [0.0, 1.0, -0.5])
def test_refuses_an_identity_mix_that_has_no_gradient(identity_mix, mhc):
    with pytest.raises(ValueError, match="identity_mix must be in \\(0, 1\\) or null"):
        mhc(identity_mix=identity_mix)
