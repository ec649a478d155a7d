"""Residual normed MLP: a deep stack of (dense, norm, activation) with a residual around every few layers.

    h = unit(x);  depth / residual_every times: h <- h + unit(.. unit(h)), `residual_every` units;  delta = down(h)
    unit(h) = activation(norm(W h)), D -> F the first and F -> F the others

Source: Wang et al. 2025, arXiv 2503.14858: an entry layer, residual blocks of four units whose residual is added after
the last activation, a plain dense layer at the end; depth counts the units within residual blocks.
Cost: 2 (2 D F + depth F^2) FLOPs a token; with matched parameters a plain MLP's.
Differs from the source: RMS norms (with a gain of 1 + g) for layer norms, no biases. The layer that may start at zero
is the last, which has no norm behind it: a zero weight in front of a norm would cut every gradient before it.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ramen.nn.mlp.base import ScaledFeedForward
from ramen.nn.parameter import constant, parameter
from ramen.ops.activation import Nonlinearity
from ramen.ops.checks import COUNTS, check_range
from ramen.ops.rms_norm import rms_norm_gain


class ResidualNormed(ScaledFeedForward):
    """An entry unit, `depth` units with a residual around every `residual_every`, an output map."""

    def __init__(self, dim: int, linear: Callable[..., Any], *, depth: int, residual_every: int, **base: Any):
        check_range(COUNTS, depth=depth, residual_every=residual_every)
        if depth % residual_every:
            raise ValueError(f"depth must be a multiple of residual_every = {residual_every}, got {depth}")

        def count(maps: int, width: int) -> int:
            return maps * width * (dim + depth * width + depth + 1) + width * dim

        def unit(columns: int) -> _Unit:
            return _Unit(self.input_maps(linear, columns), self.hidden, self.activation)

        super().__init__(dim, count, **base)
        self.entry = unit(dim)
        blocks = ([unit(self.hidden) for _ in range(residual_every)] for _ in range(depth // residual_every))
        self.blocks = nn.ModuleList(nn.Sequential(*units) for units in blocks)
        self.down = self.output_map(linear, dim)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, D) -> (B, T, D)
        h = self.entry(x)  # (B, T, F)
        for block in self.blocks:
            h = h + block(h)
        return self.down(h)


class _Unit(nn.Module):
    """activation(norm(W x)), columns -> rows."""

    def __init__(self, weight: Any, rows: int, function: Nonlinearity):
        super().__init__()
        self.weight, self.function = weight, function
        self.gain = parameter((rows * function.maps,), constant(0.0), "scalar")

    def forward(self, x: Tensor) -> Tensor:
        return self.function(rms_norm_gain(self.weight(x), self.gain))
