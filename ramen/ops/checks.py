"""Checks of constructors' arguments: ValueError with the argument's name, which the config path is put before."""

from functools import partial
from typing import Annotated

COUNTS = "[1, 10000]"  # of what is made or done in a loop, which more would keep from ending


def check_range(allowed: str, /, **values: float | None) -> None:
    """ValueError unless every value is in an interval such as "(0, 1]", "[1, inf)" or "[0, 1) or null"."""
    interval, _, null = allowed.partition(" or ")
    low, high = (float(end) for end in interval[1:-1].split(","))
    for name, value in values.items():
        number = float("nan") if value is None else value  # which is in no interval
        above = number > low if interval[0] == "(" else number >= low
        below = number < high if interval[-1] == ")" else number <= high
        if not (above and below) and not (null and value is None):
            text = f"in {interval}" if high < float("inf") else f"{'>' if interval[0] == '(' else '>='} {low:g}"
            raise ValueError(f"{name} must be {text}{' or null' * bool(null)}, got {value}")


def check_one_of(*choices: object, **values: object) -> None:
    """ValueError unless every value is one of the choices."""
    for name, value in values.items():
        if value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(map(str, choices))}, got {value!r}")


# Annotations of hyperparameters that say their range: whoever holds them calls the check (ramen.optimizer.base).
NotNegative = Annotated[float, partial(check_range, "[0, inf)")]
Positive = Annotated[float, partial(check_range, "(0, inf)")]
Fraction = Annotated[float, partial(check_range, "[0, 1)")]
Share = Annotated[float, partial(check_range, "[0, 1]")]
Inner = Annotated[float, partial(check_range, "(0, 1)")]
Count = Annotated[int, partial(check_range, COUNTS)]
