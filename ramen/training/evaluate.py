"""Validation loss: the mean over every counted token of the validation rows. Returns a number, logs nothing."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ramen.data.batches import IGNORED


@torch.no_grad()
def evaluate(
    loss: Callable[[Tensor, Tensor], Tensor], tokens: Tensor, targets: Tensor, rows: int, precision: torch.dtype,
    device: torch.device,
) -> float:  # fmt: skip
    """Mean loss in nats a counted token of (R, T) rows, `rows` of them at a time; `loss` returns a sum."""
    total = torch.zeros((), dtype=torch.float64, device=device)
    with torch.autocast(device.type, precision, enabled=precision != torch.float32):
        for start in range(0, len(tokens), rows):
            part = slice(start, start + rows)
            short = max(0, start + rows - len(tokens))  # the last part is filled up: one shape, one compiled graph
            filled_tokens = torch.cat((tokens[part], tokens[-1:].expand(short, -1)))
            filled_targets = F.pad(targets[part], (0, 0, 0, short), value=IGNORED)
            total += loss(filled_tokens.to(device), filled_targets.to(device))
    return total.item() / int((targets != IGNORED).sum())


def bits_per_byte(loss: float, bytes_per_token: float) -> float:
    """Nats a token -> bits a byte of text: what models with different tokenizers can be compared by."""
    return loss / math.log(2) / bytes_per_token
