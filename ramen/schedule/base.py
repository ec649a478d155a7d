"""Shared by schedules: interpolation, checks of arguments, and the points at which a run tries their values beforehand."""

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from ramen.ops.checks import check_range

GRID = [part / 100 for part in range(101)]
check_multipliers = partial(check_range, "[0, inf)")  # a negative learning rate would climb


def ramp(low: float, high: float, part: float) -> float:
    """low at part 0, high at part 1, straight between."""
    return low + (high - low) * min(1.0, max(0.0, part))


def check_fractions(**fractions: float) -> None:
    """ValueError unless every fraction of the run is in [0, 1] and together they are not more than 1."""
    check_range("[0, 1]", **fractions)
    if sum(fractions.values()) > 1 + 1e-9:
        raise ValueError(f"{' + '.join(fractions)} must be at most 1, got {sum(fractions.values()):g}")


def turning_points(*schedules: Callable[[float], float]) -> list[float]:
    """Points of progress, in order, at which stepped schedules take all their values and the others their extremes.

    A schedule turns at the fractions of the run among its arguments, counted from either end: these points, the numbers just
    below them, and a grid for functions whose turns are not among their arguments.
    """
    numbers = [x for schedule in schedules if isinstance(schedule, partial) for x in _numbers(schedule.keywords)]
    turns = [turn for x in numbers if 0 <= x <= 1 for turn in (x, 1 - x)]
    return sorted({*GRID, *turns, *(math.nextafter(turn, 0.0) for turn in turns)})


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            yield from _numbers(part)
    elif isinstance(value, int | float):
        yield value
