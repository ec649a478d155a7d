"""Losses of rows of logits and their gradient, row by row in the cache, in the memory of the logits (cross_entropy.c)."""

import torch
from torch import Tensor

from ramen.kernels.any.cross_entropy import add_widened, cross_entropy_rows, softcap_numbers
from ramen.kernels.cpu.library import kernels
from ramen.ops.cross_entropy import Softcap
from ramen.ops.operation import twin


@twin(cross_entropy_rows, "cpu")
def _(
    logits: Tensor, targets: Tensor, vocabulary: int, softcap: Softcap | None, differentiated: bool
) -> tuple[Tensor, Tensor | None]:
    library = kernels(logits, targets)
    if library is None or (softcap and softcap.form == "rsqrt"):
        return NotImplemented
    losses = logits.new_empty(len(logits), dtype=torch.float32)
    library.cross_entropy(logits, targets, losses, *logits.shape, vocabulary, *softcap_numbers(softcap), differentiated)
    return losses, logits if differentiated else None


@twin(add_widened, "cpu")
def _(total: Tensor, x: Tensor) -> None:
    library = kernels(x, total) if total.dtype == torch.float32 else None
    if library is None:
        return NotImplemented
    library.add_widened(total, x, total.numel())
    return None
