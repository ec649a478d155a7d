"""Means, differences and their uncertainty, over seeds.

Pure functions of numbers: values come as a mapping from seed to value, so that two methods can be paired by seed.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
NAN = math.nan


@dataclass(frozen=True)
class Spread:
    """Mean, standard deviation (n - 1 in the denominator, NaN for n < 2) and number of values."""

    mean: float
    sd: float
    n: int


@dataclass(frozen=True)
class Difference:
    """Value minus baseline (or value over baseline, see `ratio`), its 95 % interval and two-sided p-value.

    `test` is "paired" (t-test on the per-seed differences), "Welch" (seeds do not pair) or "none" (too few seeds:
    interval and p are NaN). `n` counts pairs for "paired", else the smaller of the two samples.
    """

    mean: float
    low: float
    high: float
    p: float
    n: int
    test: str


def spread(values: Sequence[float]) -> Spread:
    if not values:
        return Spread(NAN, NAN, 0)
    array = np.asarray(values, dtype=float)
    return Spread(float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else NAN, len(array))


def difference(values: Mapping[Any, float], baseline: Mapping[Any, float]) -> Difference:
    """Mean of `values` minus mean of `baseline`: paired over common seeds if there are two or more, else Welch."""
    common = [seed for seed in values if seed in baseline]
    if len(common) >= 2:
        a, b = (np.array([side[seed] for seed in common], dtype=float) for side in (values, baseline))
        return _t_test("paired", a, b, noise=float(np.std(a - b)))
    a, b = (np.array(list(side.values()), dtype=float) for side in (values, baseline))
    if len(a) >= 2 and len(b) >= 2:
        return _t_test("Welch", a, b, noise=float(np.std(a) + np.std(b)))
    if common:  # one pair: a difference without any uncertainty
        return Difference(values[common[0]] - baseline[common[0]], NAN, NAN, NAN, 1, "none")
    mean = float(a.mean() - b.mean()) if len(a) and len(b) else NAN
    return Difference(mean, NAN, NAN, NAN, min(len(a), len(b)), "none")


def ratio(values: Mapping[Any, float], baseline: Mapping[Any, float]) -> Difference:
    """Geometric mean of values / baseline with its interval: `difference` of the logarithms; all must be positive."""
    logs = [{seed: math.log(v) for seed, v in side.items()} for side in (values, baseline)]
    d = difference(*logs)
    return Difference(math.exp(d.mean), math.exp(d.low), math.exp(d.high), d.p, d.n, d.test)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction, in the order given; NaN stays NaN and does not count as a test."""
    tested = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    adjusted, running = [NAN] * len(p_values), 0.0
    for rank, (p, i) in enumerate(tested):
        running = max(running, min(1.0, (len(tested) - rank) * p))
        adjusted[i] = running
    return adjusted


def _t_test(test: str, a: np.ndarray, b: np.ndarray, noise: float) -> Difference:
    """A paired or Welch's t-test. Without noise beyond rounding nothing can be said, unless the means are equal."""
    n, mean = min(len(a), len(b)), float((a - b).mean() if test == "paired" else a.mean() - b.mean())
    if noise <= 1e-13 * max(np.abs(a).max(), np.abs(b).max()):
        return Difference(mean, 0.0, 0.0, 1.0, n, test) if mean == 0 else Difference(mean, NAN, NAN, NAN, n, "none")
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # one side may have no spread
        result = stats.ttest_rel(a, b) if test == "paired" else stats.ttest_ind(a, b, equal_var=False)
    low, high = result.confidence_interval(CONFIDENCE)
    return Difference(mean, float(low), float(high), float(result.pvalue), n, test)
