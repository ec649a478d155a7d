"""Gradients of a batch's mean loss and the validation loss, whatever is in memory at a time, in the precision asked for."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ramen.data.batches import IGNORED, Batch
from ramen.nn.gpt import GPT
from ramen.training.loss import GradientAccumulator, evaluate

CPU = torch.device("cpu")


@pytest.mark.parametrize("micro_rows", [1, 2, 3, 9])
def test_gradients_are_of_the_mean_over_counted_targets(
    build_gpt: Callable[..., GPT], rows: Callable[..., Tensor], micro_rows: int
) -> None:
    model, tokens = build_gpt(noise=0.1), rows((12,), (5, 7), (12,))
    targets = tokens.roll(-1, dims=1)
    targets[0, 3:], targets[2, 5] = IGNORED, IGNORED
    counted = int((targets != IGNORED).sum())
    loss = model(tokens, targets)
    (loss / counted).backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    total = GradientAccumulator(model, micro_rows, torch.float32, CPU)(Batch(tokens, targets, counted))
    torch.testing.assert_close(total, loss.detach())
    torch.testing.assert_close({name: p.grad for name, p in model.named_parameters() if name in expected}, expected)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_products_are_in_the_precision_asked_for(precision: torch.dtype) -> None:
    weight = torch.ones(2, 2, requires_grad=True)
    types = []

    def loss(tokens: Tensor, targets: Tensor, documents: int | None) -> Tensor:
        types.append((weight @ weight).dtype)
        return (weight @ weight).float().sum()

    row = torch.zeros((1, 2), dtype=torch.long)
    GradientAccumulator(loss, 1, precision, CPU)(Batch(row, row, 2))
    assert types == [precision] and weight.grad is not None and weight.grad.dtype == torch.float32


def test_micro_batches_are_told_how_many_documents_they_have(rows: Callable[..., Tensor]) -> None:
    weight, calls = torch.ones((), requires_grad=True), []

    def loss(tokens: Tensor, targets: Tensor, documents: int | None) -> Tensor:
        calls.append((len(tokens), documents))
        return weight * 1

    tokens = rows((4, 8), (12,), (5, 5, 2))
    for documents in ((2, 1, 3), None):
        GradientAccumulator(loss, 2, torch.float32, CPU)(Batch(tokens, tokens, 36, documents))
    assert calls == [(2, 3), (1, 3), (2, None), (1, None)]


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 20])
def test_the_mean_is_over_counted_targets_in_parts_of_one_shape(rows: int) -> None:
    tokens, targets = torch.ones(7, 3, dtype=torch.long), torch.zeros(7, 3, dtype=torch.long)
    tokens[0, 0] = 2**24  # above which a sum in float32 takes no ones
    targets[1, 1:] = targets[6, 2] = IGNORED

    def loss(tokens: Tensor, targets: Tensor) -> Tensor:
        assert tokens.shape == targets.shape == (rows, 3) and not torch.is_grad_enabled()
        return tokens[targets != IGNORED].sum().float()

    expected = int(tokens[targets != IGNORED].sum()) / 18
    # A part that has the large number is rounded itself, to even.
    assert evaluate(loss, tokens, targets, rows, torch.float32, CPU) == pytest.approx(expected, abs=1.1 / 18)
