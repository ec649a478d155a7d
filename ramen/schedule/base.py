"""What schedules share: interpolation and the checks of their arguments."""

import math


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
