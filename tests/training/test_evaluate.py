"""Evaluation: the exact mean over counted targets, whatever is in memory at a time."""

import pytest
import torch
from torch import Tensor

from ramen.data.batches import IGNORED
from ramen.training.evaluate import evaluate


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
    assert evaluate(loss, tokens, targets, rows, torch.float32, torch.device("cpu")) == pytest.approx(
        expected, abs=1.1 / 18
    )
