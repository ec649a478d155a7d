"""What MLPs share: maps into the hidden layer and out of it, with entries that start at a scale."""

from collections.abc import Callable
from typing import Any

from ramen.nn.parameter import declare_lr_scale
from ramen.ops.checks import check_range


def input_maps(linear: Callable[..., Any], hidden: int, columns: int, init_scale: float, count: int) -> Any:
    """`count` maps, columns -> hidden, with entries of standard deviation init_scale / sqrt(columns)."""
    check_range("(0, inf)", init_scale=init_scale)
    return linear(hidden, columns, (init_scale * columns**-0.5,) * count)


def output_map(
    linear: Callable[..., Any], dim: int, hidden: int, output_init_scale: float, output_lr_scale: float
) -> Any:
    """hidden -> dim, with entries of standard deviation output_init_scale / sqrt(hidden); 0 lets it start at nothing.

    It trains at output_lr_scale times the learning rate of the other maps.
    """
    check_range("[0, inf)", output_init_scale=output_init_scale)
    check_range("(0, inf)", output_lr_scale=output_lr_scale)
    output = linear(dim, hidden, (output_init_scale * hidden**-0.5,))
    declare_lr_scale(output, output_lr_scale)
    return output
