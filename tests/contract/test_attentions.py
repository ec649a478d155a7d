"""Every option of conf/attention, with every option of conf/position: who sees whom."""

import pytest
import torch

from ramen.config.registry import factory, options
from ramen.nn.parameter import initialise
from ramen.ops.document_mask import DocumentMask

ATTENTIONS, POSITIONS = options("attention"), options("position")
WINDOWS = [None, 1, 3, 50]
DIM, HEADS = 16, 2
DOCUMENTS = torch.tensor([[1, 1, 1, 1, 1, 1, 2, 3, 3, 3], [0, 0, 1, 1, 1, 1, 1, 1, 1, 1]])


@pytest.fixture(params=ATTENTIONS)
def attention(request, compose):
    """make(window, position): an attention of this option with every weight alive, and its position."""

    def make(window=None, position="rope", length=DOCUMENTS.shape[1], **more):
        config = compose(f"attention={request.param}", f"position={position}")
        turn = factory(config["position"])(DIM // HEADS, length, DIM)
        node = config["attention"] | {"long_window_tokens": window} | more
        module = factory(node)(DIM, HEADS, factory(config["linear"]), 0, 4, turn.turning)
        initialise(module, 0)
        with torch.no_grad():
            for value in module.parameters():
                value += 0.3 * torch.randn(value.shape, generator=torch.Generator().manual_seed(1))
        return module, turn

    return make


def inputs(rows=DOCUMENTS.shape[0], length=DOCUMENTS.shape[1], seed=0):
    return torch.randn(rows, length, DIM, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("window", WINDOWS)
def test_a_token_depends_on_exactly_the_tokens_it_may_see(attention, position, window):
    """Exactly 0 for the future, other documents and what is beyond the window; not 0 for all others and itself."""
    module, turn = attention(window, position)
    x, mask = inputs().requires_grad_(), DocumentMask(DOCUMENTS)
    y = module(x, turn, mask)
    assert y.shape == x.shape and y.dtype == x.dtype
    seen = torch.zeros(mask.dense(window).shape, dtype=torch.bool)[:, 0]
    for t in range(x.shape[1]):
        (gradient,) = torch.autograd.grad(y[:, t].square().sum(), x, retain_graph=True)  # (B, T, D)
        seen[:, t] = gradient.abs().sum(-1) > 0
    assert torch.equal(seen, mask.dense(window)[:, 0])


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("length", [1, 2, 7])
def test_visible_keys_is_the_mean_of_the_mask(attention, window, length, paired):
    """What the FLOPs of the start-up table grow with; paired heads are half as many, with two queries a token."""
    module, _ = attention(window, paired_layers=[0] if paired else [])
    mask = DocumentMask(torch.zeros(1, length, dtype=torch.long))
    dense = mask.paired().dense(window and 2 * window - 1) if paired else mask.dense(window)
    assert module.visible_keys(length) == pytest.approx(dense.sum().item() / dense.shape[-1])


def test_rows_do_not_meet(attention):
    module, turn = attention()
    x = inputs()
    both = module(x, turn, DocumentMask(DOCUMENTS))
    for row in range(len(x)):
        alone = module(x[row : row + 1], turn, DocumentMask(DOCUMENTS[row : row + 1]))
        torch.testing.assert_close(both[row : row + 1], alone, rtol=1e-5, atol=1e-6)


def test_a_document_reads_the_same_wherever_it_stands(attention):
    """Positions are relative: packing moves documents about, and may not change them."""
    module, turn = attention(position="half_rope", length=12)
    x, other = inputs(1, 5), inputs(1, 7, seed=1)
    alone = module(x, turn, DocumentMask(torch.zeros(1, 5, dtype=torch.long)))
    packed = module(torch.cat((other, x), dim=1), turn, DocumentMask(torch.tensor([[0] * 7 + [1] * 5])))
    torch.testing.assert_close(packed[:, 7:], alone, rtol=1e-5, atol=1e-5)


def test_every_parameter_gets_a_gradient(attention):
    module, turn = attention()
    module(inputs(), turn, DocumentMask(DOCUMENTS)).square().sum().backward()
    assert [name for name, value in module.named_parameters() if not value.grad.any()] == []


def test_autocast_to_bfloat16_is_close(attention):
    module, turn = attention()
    mask = DocumentMask(DOCUMENTS)
    exact = module(inputs(), turn, mask)
    with torch.autocast("cpu", torch.bfloat16):
        close = module(inputs(), turn, mask)
    assert close.dtype == torch.bfloat16  # the policy of all methods: matrix products in bfloat16
    assert (close.float() - exact).norm() < 0.03 * exact.norm()


def test_refuses_a_window_without_itself(attention):
    with pytest.raises(ValueError, match="long_window_tokens must be >= 1 or null, got 0"):
        attention(window=0)
