"""Stacked feed-forward: `depth` narrow MLPs in one sublayer, each with a norm and a residual of its own.

    x <- x + down_i(activation(up_i(norm_i(x)))),  i = 1 .. depth;  the module returns what was added

Source: the pre-norm residual MLP (Xiong et al. 2020, arXiv 2002.04745), stacked; `ff` of ramenGPT.
Cost: 4 D F FLOPs a token and layer (GLU: 6 D F); with matched parameters a plain MLP's in all.
Differs from ramenGPT: the sum of the layers' outputs is returned, without the input.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ramen.nn.mlp.base import ScaledFeedForward
from ramen.nn.parameter import constant, parameter
from ramen.ops.checks import COUNTS, check_range
from ramen.ops.rms_norm import rms_norm_gain


class FF(ScaledFeedForward):
    """A stack of `depth` pre-norm MLPs of width F."""

    def __init__(self, dim: int, linear: Callable[..., Any], *, depth: int, **base: Any):
        check_range(COUNTS, depth=depth)
        super().__init__(dim, lambda maps, width: depth * ((maps + 1) * dim * width + dim), **base)
        self.gain = parameter((depth, dim), constant(0.0), "scalar")
        self.up = nn.ModuleList(self.input_maps(linear, dim) for _ in range(depth))
        self.down = nn.ModuleList(self.output_map(linear, dim) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:  # (B, T, D) -> (B, T, D)
        added = torch.zeros_like(x)
        for gain, up, down in zip(self.gain, self.up, self.down, strict=True):
            added = added + down(self.activation(up(rms_norm_gain(x + added, gain))))
        return added
