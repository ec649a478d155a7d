"""Range checks of constructors: ValueError with the argument's name, which the config path is put before."""


def above(low: float, **values: float) -> None:
    """ValueError unless every value is above `low`."""
    for name, value in values.items():
        if not value > low:
            raise ValueError(f"{name} must be > {low}, got {value}")


def at_least(low: float, **values: float) -> None:
    """ValueError unless every value is `low` or more."""
    for name, value in values.items():
        if not value >= low:
            raise ValueError(f"{name} must be >= {low}, got {value}")


def counts(**values: int) -> None:
    """ValueError unless every value is in 1 .. 10,000: how often something is done or made in a loop."""
    for name, value in values.items():
        if not 1 <= value <= 10_000:
            raise ValueError(f"{name} must be >= 1 and at most 10,000, got {value}")
