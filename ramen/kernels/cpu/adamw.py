"""A step of AdamW with cautious decay in one pass over memory, float32 (adamw.c)."""

import torch
from torch import Tensor

from ramen.kernels.any.adamw import bias_corrections
from ramen.kernels.cpu.library import kernels
from ramen.ops.adamw import Tensors, cautious_adamw
from ramen.ops.operation import twin


@twin(cautious_adamw, "cpu")
def _(
    weights: Tensors, gradients: Tensors, firsts: Tensors, seconds: Tensors, steps: Tensors, *,
    lr: float | Tensor, beta1: float, beta2: float, eps: float, decay: float,
) -> None:  # fmt: skip
    tensors = (*weights, *gradients)
    served = all(t.dtype == torch.float32 and t.is_contiguous() for t in tensors)
    library = kernels(*tensors) if served else None
    if library is None:
        return NotImplemented
    rate, sizes = float(lr), [w.numel() for w in weights]
    library.cautious_adamw(
        weights, gradients, firsts, seconds, sizes, len(sizes), bias_corrections(steps, beta1, beta2),
        rate, 1 - beta1, beta2, 1 - beta2, eps, rate * decay,
    )  # fmt: skip
    return None
