"""Checks of constructors' arguments: ValueError with the argument's name, which the config path is put before."""

from functools import partial
from typing import Annotated

MOST = 10_000  # of what is made or done in a loop, which more would keep from ending


def check_above(low: float, **values: float) -> None:
    """ValueError unless every value is above `low`."""
    for name, value in values.items():
        if not value > low:
            raise ValueError(f"{name} must be > {low}, got {value}")


def check_at_least(low: float, **values: float) -> None:
    """ValueError unless every value is `low` or more."""
    for name, value in values.items():
        if not value >= low:
            raise ValueError(f"{name} must be >= {low}, got {value}")


def check_within(low: float, high: float, **values: float) -> None:
    """ValueError unless every value is `low` or more, and below `high`."""
    for name, value in values.items():
        if not low <= value < high:
            raise ValueError(f"{name} must be in [{low}, {high}), got {value}")


def check_between(low: float, high: float, **values: float) -> None:
    """ValueError unless every value is above `low` and below `high`."""
    for name, value in values.items():
        if not low < value < high:
            raise ValueError(f"{name} must be in ({low}, {high}), got {value}")


def check_share(**values: float) -> None:
    """ValueError unless every value is in [0, 1]."""
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be in [0, 1], got {value}")


def check_one_of(*choices: object, **values: object) -> None:
    """ValueError unless every value is one of the choices."""
    for name, value in values.items():
        if value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(map(str, choices))}, got {value!r}")


def check_counts(**values: int) -> None:
    """ValueError unless every value is 1 .. MOST: how often something is done or made in a loop."""
    check_at_least(1, **values)
    for name, value in values.items():
        if value > MOST:
            raise ValueError(f"{name} must be <= {MOST:,}, got {value}")


# Annotations of hyperparameters that say their range: whoever holds them calls the check (ramen.optimizer.base).
NotNegative = Annotated[float, partial(check_at_least, 0)]
Positive = Annotated[float, partial(check_above, 0)]
Fraction = Annotated[float, partial(check_within, 0, 1)]  # in [0, 1)
Share = Annotated[float, check_share]  # in [0, 1]
Inner = Annotated[float, partial(check_between, 0, 1)]  # in (0, 1)
Count = Annotated[int, check_counts]
