"""Rotation as one complex product in float32: one pass over memory instead of six."""

import torch
from torch import Tensor

from ramen.ops.operation import twin
from ramen.ops.rotary import positions, rotate


@twin(rotate)
def _(x: Tensor, table: Tensor) -> Tensor:
    if x.dtype != torch.float32 or torch.compiler.is_compiling():  # which knows no complex numbers
        return NotImplemented
    turns = torch.view_as_complex(positions(table, x.shape[1]))  # (T, K/2)
    turns = turns.view(len(turns), *(1,) * (x.dim() - 3), -1)
    return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * turns).flatten(-2)
