"""Means, differences and their uncertainty, over seeds.

Pure functions of numbers: values come as a mapping from seed to value, so that two methods can be paired by seed.
"""

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

CONFIDENCE = 0.95
POWER = 0.85  # of a plan: the allowance for the luck of a choice may take five percent of it
NAN = math.nan


class Spread(NamedTuple):
    """Mean, standard deviation (n - 1 in the denominator, NaN for n < 2) and number of values."""

    mean: float
    sd: float
    n: int


@dataclass(frozen=True)
class Difference:
    """Mean of value minus baseline, and the two-sided p-value that it is zero.

    `test` is "paired" (t-test on the per-seed differences), "Welch" (seeds do not pair) or "none" (too few seeds: p is
    NaN). `n` counts pairs for "paired", else the smaller of the two samples. `sd`: of the difference at one seed.
    """

    mean: float
    p: float = NAN
    n: int = 0
    test: str = "none"
    sd: float = NAN
    luck: float = 0.0
    result: Any = None  # scipy's

    def interval(self, level: float = CONFIDENCE) -> tuple[float, float]:
        """Confidence interval of the mean, longer by the luck on the side where that may have been; NaN without one."""
        if self.result is None:
            return (self.mean, self.mean) if self.p == 1 else (NAN, NAN)
        low, high = self.result.confidence_interval(level)
        return float(low) + min(self.luck, 0.0), float(high) + max(self.luck, 0.0)


def spread(values: Iterable[float]) -> Spread:
    series = pd.Series(list(values), dtype=float)
    return Spread(float(series.mean()), float(series.std()), len(series))


def difference(values: Mapping[Any, float], baseline: Mapping[Any, float], luck: float = 0.0) -> Difference:
    """Mean of `values` minus mean of `baseline`: paired over common seeds if there are two or more, else Welch.

    `luck`: the true difference may be higher (if positive) or lower by as much, see `luck_of_choice`. Without noise beyond
    rounding there is no p, unless the means are equal.
    """
    common = [seed for seed in values if seed in baseline]
    if len(common) == 1 < min(len(values), len(baseline)):
        common = []
    a, b = (np.array([side[seed] for seed in common or side], dtype=float) for side in (values, baseline))
    n = min(len(a), len(b))
    mean = float((a - b).mean() if common else a.mean() - b.mean()) if n else NAN
    if n < 2:  # a difference without any uncertainty
        return Difference(mean, n=n)
    sd = float((a - b).std(ddof=1)) if common else math.sqrt(a.var(ddof=1) + b.var(ddof=1))
    test = "paired" if common else "Welch"
    if sd <= 1e-13 * max(np.abs(a).max(), np.abs(b).max()):
        return Difference(mean, 1.0, n, test, sd) if mean == 0 else Difference(mean, NAN, n)

    def tested(shift: float) -> Any:
        with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # one side may have no spread
            return stats.ttest_rel(a + shift, b) if common else stats.ttest_ind(a + shift, b, equal_var=False)

    result = tested(0.0)
    shift = max(luck, 0.0) if mean < 0 else min(luck, 0.0)  # towards no difference
    p = float(result.pvalue) if shift == 0 else float(tested(shift).pvalue) if abs(shift) < abs(mean) else 1.0
    return Difference(mean, p, n, test, sd, luck, result)


def ratio(values: Mapping[Any, float], baseline: Mapping[Any, float]) -> tuple[float, float, float]:
    """Geometric mean of values / baseline and its interval: `difference` of the logarithms; all must be positive."""
    logs, base = ({seed: math.log(v) for seed, v in side.items()} for side in (values, baseline))
    gap = difference(logs, base)
    low, high = map(math.exp, gap.interval())
    return math.exp(gap.mean), low, high


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction, in the order given; NaN stays NaN and does not count as a test."""
    tested = pd.Series(p_values, dtype=float).dropna().sort_values(kind="stable")
    adjusted = (tested * np.arange(len(tested), 0, -1)).clip(upper=1.0).cummax()
    return adjusted.reindex(range(len(p_values))).tolist()


def luck_of_choice(chosen: Mapping[Any, float], others: Sequence[Mapping[Any, float]]) -> float:
    """Expected luck in the mean of `chosen` from having been chosen as the best on these very seeds.

    It is that of the best of k equal settings (Blom's formula for the extreme of k normal values): `chosen` and the
    `others` (values by seed) within two standard errors of it. 0 where nothing else came near.
    """
    gaps = [np.array([other[seed] - chosen[seed] for seed in chosen if seed in other]) for other in others]
    gaps = [gap for gap in gaps if len(gap) >= 2]
    near = 1 + sum(bool(abs(gap.mean()) <= 2 * gap.std(ddof=1) / math.sqrt(len(gap))) for gap in gaps)
    if near == 1:
        return 0.0
    # A gap has the variance of two values; the choice was made on the seeds that the settings share.
    noise = math.sqrt(np.mean([gap.var(ddof=1) for gap in gaps]) / 2 / min(map(len, gaps)))
    return float(stats.norm.ppf((near - 0.375) / (near + 0.25))) * noise


def seeds_needed(difference: float, sd: float, comparisons: int = 1, power: float = POWER) -> int:
    """Number of paired seeds for which a t-test finds a true `difference` with probability `power` at p < 0.05.

    `sd`: standard deviation of the difference at one seed. `comparisons`: methods that share the error (Bonferroni, the
    worst case of Holm's correction). Beyond 1,000 it is that of a known noise.
    """
    if not (sd > 0 and difference != 0):
        raise ValueError(f"seeds_needed: difference must not be 0 and sd > 0, got {difference} and {sd}")
    tail, effect = (1 - CONFIDENCE) / 2 / comparisons, abs(difference) / sd
    n = max(2, math.floor(((stats.norm.isf(tail) + stats.norm.ppf(power)) / effect) ** 2))  # with the noise known
    while n <= 1000 and stats.nct.sf(stats.t.isf(tail, n - 1), n - 1, effect * math.sqrt(n)) < power:
        n += 1
    return n
