"""Head and loss, plain and in chunks, against torch's cross-entropy on full logits, in float64."""

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from ramen.kernels import plain_torch
from ramen.kernels.any import cross_entropy
from ramen.kernels.any.cross_entropy import chunked
from ramen.ops.cross_entropy import IGNORED, Softcap, linear_cross_entropy

TOKENS, DIM, VOCABULARY, ROWS = 23, 12, 37, 48  # ROWS - VOCABULARY rows are padding
SOFTCAPS = {
    "none": None,
    "sigmoid": Softcap("sigmoid", limit=23.0, shift=5.0, scale=7.5),
    "tanh": Softcap("tanh", limit=30.0, shift=0.0, scale=30.0),
    "rsqrt": Softcap("rsqrt", limit=15.0, shift=0.0, scale=15.0),
    "steep": Softcap("tanh", limit=2.0, shift=-0.5, scale=0.7),
}


def inputs(ignored: tuple[int, ...] = (0, 7, 22), padding: float = 3.0) -> tuple[Tensor, Tensor, Tensor]:
    """x, weight (whose padding rows would win every softmax) and targets with some left out."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(TOKENS, DIM, generator=generator)
    weight = torch.randn(ROWS, DIM, generator=generator)
    weight[VOCABULARY:] *= padding
    targets = torch.randint(VOCABULARY, (TOKENS,), generator=generator)
    targets[list(ignored)] = IGNORED
    return x, weight, targets


def oracle(
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    softcap: Softcap | None,
    factor: float = 1.0,
    vocabulary: int = VOCABULARY,
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss and its two gradients times `factor`, from full logits in float64."""
    x, weight = x.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    logits = (x @ weight.T)[:, :vocabulary]
    loss = F.cross_entropy(softcap(logits) if softcap else logits, targets, reduction="sum", ignore_index=IGNORED)
    return loss.detach(), *torch.autograd.grad(loss * factor, (x, weight))


@pytest.mark.parametrize("softcap", SOFTCAPS.values(), ids=SOFTCAPS)
@pytest.mark.parametrize("chunk_tokens", [1, 5, TOKENS, 1024])
def test_value_and_gradients_are_those_of_full_logits(softcap, chunk_tokens):
    x, weight, targets = inputs()
    x.requires_grad_()
    weight.requires_grad_()
    loss = chunked(x, weight, targets, VOCABULARY, softcap, None, chunk_tokens)
    (loss * -2.5).backward()  # the gradient of the output need not be 1
    expected, grad_x, grad_weight = oracle(x, weight, targets, softcap, factor=-2.5)
    assert loss.dtype == torch.float32 and loss.shape == ()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(x.grad.double(), grad_x, rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(weight.grad.double(), grad_weight, rtol=1e-5, atol=5e-5)


def test_padding_never_enters_and_gets_no_gradient():
    x, weight, targets = inputs()
    weight.requires_grad_()
    losses = []
    for value in (0.0, 1e4, -1e4):
        weight.data[VOCABULARY:] = value
        losses.append(linear_cross_entropy(x, weight, targets, VOCABULARY, SOFTCAPS["sigmoid"]))
        losses[-1].backward()
    assert losses[0] == losses[1] == losses[2]
    assert torch.equal(weight.grad[VOCABULARY:], torch.zeros(ROWS - VOCABULARY, DIM))
    assert weight.grad[:VOCABULARY].abs().amax(dim=1).min() > 0


def test_ignored_targets_count_nothing_and_their_tokens_get_no_gradient():
    ignored = (0, 7, 22)
    x, weight, targets = inputs(ignored)
    saved = targets != IGNORED
    x.requires_grad_()
    weight.requires_grad_()
    with_ignored = chunked(x, weight, targets, VOCABULARY, None, None, 5)
    with_ignored.backward()
    assert torch.equal(x.grad[~saved], torch.zeros(len(ignored), DIM))
    expected, grad_x, grad_weight = oracle(x[saved], weight, targets[saved], None)
    torch.testing.assert_close(with_ignored.double(), expected, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(x.grad[saved].double(), grad_x, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(weight.grad.double(), grad_weight, rtol=1e-5, atol=2e-5)


def test_a_batch_of_ignored_targets_alone_is_zero_with_zero_gradients():
    x, weight, targets = inputs(ignored=tuple(range(TOKENS)))
    x.requires_grad_()
    weight.requires_grad_()
    loss = chunked(x, weight, targets, VOCABULARY, SOFTCAPS["sigmoid"], None, 5)
    loss.backward()
    assert loss == 0
    assert not x.grad.any() and not weight.grad.any()


def test_no_token_at_all_gives_zero_gradients(monkeypatch):
    """And not what lay in memory."""
    monkeypatch.setattr(torch, "empty_like", lambda x, **more: torch.full_like(x, torch.nan, **more))
    weight, x = torch.ones(ROWS, DIM, requires_grad=True), torch.ones(0, DIM, requires_grad=True)
    linear_cross_entropy(x, weight, torch.ones(0, dtype=torch.long), VOCABULARY, None).backward()
    assert torch.equal(weight.grad, torch.zeros(ROWS, DIM)) and x.grad.shape == (0, DIM)


@pytest.mark.parametrize("leaf", ["x", "weight"])
def test_only_what_needs_a_gradient_gets_one(leaf):
    x, weight, targets = inputs()
    asked = {"x": x, "weight": weight}[leaf].requires_grad_()
    linear_cross_entropy(x, weight, targets, VOCABULARY, None).backward()
    expected = dict(zip(("x", "weight"), oracle(x, weight, targets, None)[1:], strict=True))[leaf]
    torch.testing.assert_close(asked.grad.double(), expected, rtol=1e-5, atol=2e-5)
    assert {"x": weight, "weight": x}[leaf].grad is None


def test_an_evaluation_forms_no_gradients():
    """Without grad the work is the logits' matrix product alone, and the value is the same."""
    x, weight, targets = inputs()
    weight.requires_grad_()
    trained = linear_cross_entropy(x, weight, targets, VOCABULARY, None)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        evaluated = linear_cross_entropy(x, weight, targets, VOCABULARY, None)
    assert counter.get_total_flops() == 2 * TOKENS * DIM * ROWS
    assert torch.equal(evaluated, trained) and not evaluated.requires_grad


@pytest.mark.parametrize("speed", [2.0, 0.5], ids=["fast bf16", "slow bf16"])
@pytest.mark.parametrize("softcap", [None, SOFTCAPS["sigmoid"]], ids=["none", "sigmoid"])
@pytest.mark.parametrize("by", [nullcontext, plain_torch], ids=["kernel", "torch"])
def test_under_autocast_it_is_close_and_the_weight_gradient_is_float32(softcap, speed, by, monkeypatch):
    monkeypatch.setattr(cross_entropy, "bfloat16_speed", lambda: speed)
    x, weight, targets = inputs()
    x.requires_grad_()
    weight.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16), by():
        loss = linear_cross_entropy(x, weight, targets, VOCABULARY, softcap)
    loss.backward()
    expected, grad_x, grad_weight = oracle(x, weight, targets, softcap)
    assert loss.dtype == torch.float32 and x.grad.dtype == weight.grad.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=0.01)
    for got, exact in ((x.grad, grad_x), (weight.grad, grad_weight)):
        assert (got - exact).norm() < 0.02 * exact.norm()


def test_where_bfloat16_is_slow_products_of_its_numbers_are_exact(monkeypatch):
    """Rounded are x and the weight, as everywhere in bfloat16, and not the logits."""
    monkeypatch.setattr(cross_entropy, "bfloat16_speed", lambda: 0.5)
    x, weight, targets = inputs()
    x.requires_grad_()
    weight.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = chunked(x, weight, targets, VOCABULARY, None, None, 5)
    loss.backward()
    rounded = (t.detach().bfloat16().float() for t in (x, weight))
    expected, grad_x, grad_weight = oracle(*rounded, targets, None)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(weight.grad.double(), grad_weight, rtol=1e-5, atol=5e-5)
    torch.testing.assert_close(x.grad.double(), grad_x.bfloat16().double(), rtol=2**-7, atol=1e-3)


@pytest.mark.parametrize("form", SOFTCAPS)
@pytest.mark.parametrize("place", [0, 700, 1500, 2049])
def test_the_kernel_finds_the_highest_logit_wherever_it_is(form, place):
    """Rows of more than two of its blocks, with one logit far above the others."""
    generator = torch.Generator().manual_seed(place)
    x, weight = torch.eye(3), torch.randn(2050, 3, generator=generator)
    weight[place] += 80
    targets = torch.tensor([place, 5, 2049])
    full = (x @ weight.T).double()
    expected = F.cross_entropy(SOFTCAPS[form](full) if SOFTCAPS[form] else full, targets, reduction="sum")
    loss = linear_cross_entropy(x, weight, targets, 2050, SOFTCAPS[form])
    torch.testing.assert_close(loss.double(), expected, rtol=2e-6, atol=1e-5)


@pytest.mark.parametrize("form", SOFTCAPS)
@pytest.mark.parametrize("offset", [-200.0, 0.0, 200.0])
def test_rows_of_several_blocks_whose_highest_logits_differ(form, offset):
    """Loss and gradients; all logits may be far below zero, or above."""
    weight = torch.randn(2050, 3, generator=torch.Generator().manual_seed(0)) + offset
    weight[:1024] += torch.tensor([3.0, 0.0, -3.0])
    x, targets = torch.eye(3), torch.tensor([5, 1500, 2049])
    expected, grad_x, grad_weight = oracle(x, weight, targets, SOFTCAPS[form], vocabulary=2050)
    x.requires_grad_()
    weight.requires_grad_()
    loss = linear_cross_entropy(x, weight, targets, 2050, SOFTCAPS[form])
    loss.backward()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(weight.grad.double(), grad_weight, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(x.grad.double(), grad_x, rtol=1e-3, atol=1e-3)


def test_the_highest_logit_is_found_in_every_place_of_a_row():
    """One so far above the others that the sum is infinite if it is missed."""
    places = 1100  # more than one block of the kernel
    weight = 300 * torch.eye(places) + torch.randn(places, places, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(places).roll(1)
    loss = linear_cross_entropy(torch.eye(places), weight, targets, places, None)
    expected = F.cross_entropy(weight.T.double(), targets, reduction="sum")
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)


def test_a_nan_shows_in_the_loss():
    x, weight, targets = inputs()
    weight[3, 2] = torch.nan
    assert linear_cross_entropy(x, weight, targets, VOCABULARY, None).isnan()


def test_logits_far_out_of_range_stay_finite():
    """A right answer of logit 1e4 costs nothing, a wrong one costs the distance, and no gradient is NaN."""
    x = torch.eye(2, requires_grad=True)
    weight = torch.tensor([[1e4, 1e4], [0.0, 0.0]], requires_grad=True)
    loss = linear_cross_entropy(x, weight, torch.tensor([0, 1]), 2, None)
    loss.backward()
    assert loss.item() == pytest.approx(1e4)
    assert x.grad.isfinite().all() and weight.grad.isfinite().all()
