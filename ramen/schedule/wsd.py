"""WSD: warm-up, stable, decay, with the 1 - sqrt decay.

Sources: Hu et al. 2024, arXiv 2404.06395; 1 - sqrt: Hägele et al. 2024, arXiv 2405.18392.
"""

import math

from ramen.schedule.base import check_fractions, check_multipliers, ramp


def wsd(progress: float, *, start: float, final: float, warmup_fraction: float, decay_fraction: float) -> float:
    """start -> 1 over the warm-up, 1, then 1 -> final as 1 - sqrt(part of the decay done)."""
    check_multipliers(start=start, final=final)
    check_fractions(warmup_fraction=warmup_fraction, decay_fraction=decay_fraction)
    if progress < warmup_fraction:
        return ramp(start, 1.0, progress / warmup_fraction)
    if progress > 1 - decay_fraction:
        done = 1 - (1 - progress) / decay_fraction  # exactly 1 at the end, and never below 0
        return ramp(final, 1.0, 1 - math.sqrt(done))
    return 1.0
