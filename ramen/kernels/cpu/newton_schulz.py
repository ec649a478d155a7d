"""Matrices at Frobenius norm 1, float32 (newton_schulz.c)."""

import torch
from torch import Tensor

from ramen.kernels.cpu.library import kernels
from ramen.ops.newton_schulz import unit_norm
from ramen.ops.operation import twin


@twin(unit_norm, "cpu")
def _(x: Tensor, dtype: torch.dtype) -> Tensor:
    library = kernels(x) if x.dtype == torch.float32 else None
    if library is None:
        return NotImplemented
    x = x.contiguous()
    out = torch.empty_like(x)
    library.unit_norm(x, out, len(x), x[0].numel())
    return out.to(dtype)
