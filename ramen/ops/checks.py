"""Checks of constructors' arguments: ValueError with the argument's name, which the config path is put before."""

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
