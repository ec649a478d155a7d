"""What schedules share: interpolation, the checks of their arguments, and where their values are looked at before a run."""

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

GRID = [part / 100 for part in range(101)]


def ramp(low: float, high: float, part: float) -> float:
    """low at part 0, high at part 1, straight between."""
    return low + (high - low) * min(1.0, max(0.0, part))


def check_fractions(**fractions: float) -> None:
    """ValueError unless every fraction of the run is in [0, 1] and together they are not more than 1."""
    for name, value in fractions.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be in [0, 1], got {value}")
    if sum(fractions.values()) > 1 + 1e-9:
        raise ValueError(f"{' + '.join(fractions)} must be at most 1, got {sum(fractions.values()):g}")


def check_multipliers(**multipliers: float) -> None:
    """ValueError unless every multiplier is a number not below 0: a negative learning rate would climb."""
    for name, value in multipliers.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} must be >= 0 and finite, got {value}")


def turning_points(*schedules: Callable[[float], float]) -> list[float]:
    """Values of progress that meet every value of stepped schedules and the extremes of the others, in order.

    A schedule turns at fractions of the run among its own arguments, counted from either end: it is looked at there, just before,
    and on a grid, for functions that hide where they turn.
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
