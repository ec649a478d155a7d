"""Options and maps that MLPs share: an activation, a hidden width, and maps into the hidden layer and out of it."""

import bisect
import math
from collections.abc import Callable
from functools import partial
from typing import Any

from ramen.nn.parameter import Component, declare_lr_scale
from ramen.ops.activation import Activation, nonlinearity
from ramen.ops.checks import check_range


class FeedForward(Component):
    """An activation, and `hidden`, the width F of its layer.

    `count(maps, F)` is the method's number of parameters, at least dim F, if the activation takes so many input maps.
    """

    def __init__(
        self,
        dim: int,
        count: Callable[[int, int], int],
        *,
        activation: Activation,
        expansion: float,
        match_parameters: bool,
    ):
        super().__init__()
        self.activation = nonlinearity(activation)
        self.hidden = hidden_width(dim, expansion, partial(count, self.activation.maps) if match_parameters else None)


class ScaledFeedForward(FeedForward):
    """An MLP whose maps start at scales that are options."""

    def __init__(
        self,
        dim: int,
        count: Callable[[int, int], int],
        *,
        init_scale: float,
        output_init_scale: float,
        output_lr_scale: float,
        **base: Any,
    ):
        super().__init__(dim, count, **base)
        check_range("(0, inf)", init_scale=init_scale, output_lr_scale=output_lr_scale)
        check_range("[0, inf)", output_init_scale=output_init_scale)
        self.init_scale, self.output_init_scale, self.output_lr_scale = init_scale, output_init_scale, output_lr_scale

    def input_maps(self, linear: Callable[..., Any], columns: int) -> Any:
        """The activation's maps, columns -> F, with entries of standard deviation init_scale / sqrt(columns)."""
        return linear(self.hidden, columns, (self.init_scale * columns**-0.5,) * self.activation.maps)

    def output_map(self, linear: Callable[..., Any], dim: int) -> Any:
        """F -> dim, with entries of standard deviation output_init_scale / sqrt(F); 0 lets it start at nothing.

        It trains at output_lr_scale times the learning rate of the other maps.
        """
        output = linear(dim, self.hidden, (self.output_init_scale * self.hidden**-0.5,))
        declare_lr_scale(output, self.output_lr_scale)
        return output


def hidden_width(dim: int, expansion: float, count: Callable[[int], int] | None) -> int:
    """F of an MLP: expansion x dim; or, given `count` (F -> parameters), the F with a plain two-map MLP's parameters.

    Those are 2 expansion dim^2. A matched F is a multiple of the largest power of two (up to 128) within 1 % of them.
    """
    check_range("(0, inf)", expansion=expansion)
    if count is None:
        return max(1, round(expansion * dim))
    target = 2 * expansion * dim**2
    enough = bisect.bisect_left(range(math.ceil(target / dim) + 1), target, lo=1, key=count)
    nearest = min(enough, max(1, enough - 1), key=lambda width: abs(count(width) - target))
    for multiple in (128, 64, 32, 16, 8, 4, 2):
        rounded = round(nearest / multiple) * multiple
        if rounded and abs(count(rounded) - target) <= 0.01 * target:
            return rounded
    return nearest
