"""Validation loss: the mean over every counted token of the validation rows. Returns a number, logs nothing."""

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ramen.data.batches import IGNORED


@torch.no_grad()
def evaluate(
    loss: Callable[[Tensor, Tensor], Tensor],
    tokens: NDArray[np.int64],
    targets: NDArray[np.int64],
    rows: int,
    device: torch.device,
) -> float:
    """Mean loss in nats a counted token of (R, T) rows, `rows` of them at a time; `loss` returns a sum."""
    total = torch.zeros((), dtype=torch.float64, device=device)
    for start in range(0, len(tokens), rows):
        part = slice(start, start + rows)
        short = max(0, start + rows - len(tokens))  # the last part is filled up: one shape, one compiled graph
        padded_tokens = np.pad(tokens[part], ((0, short), (0, 0)), mode="edge")
        padded_targets = np.pad(targets[part], ((0, short), (0, 0)), constant_values=IGNORED)
        total += loss(torch.from_numpy(padded_tokens).to(device), torch.from_numpy(padded_targets).to(device))
    return total.item() / int((targets != IGNORED).sum())


def bits_per_byte(loss: float, bytes_per_token: float) -> float:
    """Nats a token -> bits a byte of text: what models with different tokenizers can be compared by."""
    return loss / math.log(2) / bytes_per_token
