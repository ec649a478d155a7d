"""Gradients of a batch: those of its mean loss, however it is cut, in the precision that is asked for."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ramen.data.batches import IGNORED, Batch
from ramen.nn.gpt import GPT
from ramen.training.gradient_accumulator import GradientAccumulator

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
