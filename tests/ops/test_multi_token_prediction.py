"""Losses on further tokens against a sum of ordinary cross-entropies, and which tokens are further ones."""

from contextlib import nullcontext

import pytest
import torch
from torch.nn import functional as F

from ramen.kernels import plain_torch
from ramen.kernels.any.cross_entropy import chunked
from ramen.ops.cross_entropy import IGNORED, Softcap, linear_cross_entropy, mtp_targets

VOCABULARY, ROWS, DIM, COUNT = 37, 11, 8, 24
CAPS = {"none": None, "sigmoid": Softcap("sigmoid", 23.0, 5.0, 7.5), "tanh": Softcap("tanh", 5.0, 0.0, 5.0)}


def case(padded):
    make = torch.Generator().manual_seed(0)
    x, weight = torch.randn(COUNT, DIM, generator=make), torch.randn(padded, DIM, generator=make)
    targets = torch.randint(VOCABULARY, (COUNT, 3), generator=make)
    targets[3, 1], targets[5, 1:], targets[7] = IGNORED, IGNORED, IGNORED
    targets[9, 1] = targets[9, 0]  # the same token twice in a row
    return x.requires_grad_(), weight.requires_grad_(), targets


@pytest.mark.parametrize("by", ["plain", "chunks", "chunks without C"])
@pytest.mark.parametrize("cap", CAPS)
@pytest.mark.parametrize(("padded", "chunk"), [(VOCABULARY, 7), (64, None)])
def test_loss_and_gradients_are_those_of_the_weighted_sum(by, cap, padded, chunk):
    x, weight, targets = case(padded)
    weights = torch.tensor([0.5, 0.25])
    arguments = x, weight, targets[:, 0], VOCABULARY, CAPS[cap], (targets[:, 1:], weights)

    def head():
        with plain_torch() if by != "chunks" else nullcontext():
            return linear_cross_entropy(*arguments) if by == "plain" else chunked(*arguments, chunk_tokens=chunk)

    loss = head()
    logits = (x @ weight.T)[:, :VOCABULARY]
    logits = CAPS[cap](logits) if CAPS[cap] else logits
    parts = [F.cross_entropy(logits, targets[:, k], reduction="sum", ignore_index=IGNORED) for k in range(3)]
    expected = parts[0] + 0.5 * parts[1] + 0.25 * parts[2]
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-4)
    got, wanted = (torch.autograd.grad(result, (x, weight), retain_graph=True) for result in (loss, expected))
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(head(), loss.detach())


def test_weights_of_zero_are_the_next_token_alone():
    x, weight, targets = case(64)
    alone = linear_cross_entropy(x, weight, targets[:, 0], VOCABULARY, None)
    joined = linear_cross_entropy(x, weight, targets[:, 0], VOCABULARY, None, mtp=(targets[:, 1:], torch.zeros(2)))
    torch.testing.assert_close(joined, alone, rtol=1e-6, atol=1e-6)
    for got, wanted in zip(*(torch.autograd.grad(result, (x, weight)) for result in (joined, alone)), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)


def test_bfloat16_gradients_are_close():
    x, weight, targets = case(64)
    weights = torch.tensor([0.5, 0.25])
    exact = linear_cross_entropy(x, weight, targets[:, 0], VOCABULARY, None, mtp=(targets[:, 1:], weights))
    with torch.autocast("cpu", torch.bfloat16):
        close = linear_cross_entropy(x, weight, targets[:, 0], VOCABULARY, None, mtp=(targets[:, 1:], weights))
    assert close.item() == pytest.approx(exact.item(), rel=0.01)
    wanted, got = (torch.autograd.grad(result, weight)[0] for result in (exact, close))
    assert (got - wanted).norm() < 0.02 * wanted.norm()


def test_further_targets_stay_in_their_document_and_row():
    documents = torch.tensor([[0, 0, 0, 0, 1, 1, 1], [0, 1, 1, 1, 1, 1, 1]])
    targets = torch.tensor([[1, 2, 3, 90, 5, 6, IGNORED], [90, 8, IGNORED, 10, 11, 12, 13]])
    none = IGNORED
    expected = [
        [[2, 3], [3, 90], [90, none], [none, none], [6, none], [none, none], [none, none]],
        [[none, none], [none, 10], [none, none], [11, 12], [12, 13], [13, none], [none, none]],
    ]
    assert mtp_targets(targets, documents, 2).tolist() == expected
