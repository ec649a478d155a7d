"""The report's statistics against scipy.stats on the same numbers, and against what was planted."""

import math

import numpy as np
import pytest
from scipy import stats

from ramen.report.statistics import difference, holm, ratio, spread

REPEATS = 600


@pytest.fixture
def chance():
    return np.random.default_rng(20240520)


def by_seed(values, first=0):
    return {first + i: float(v) for i, v in enumerate(values)}


@pytest.mark.parametrize("n", [2, 3, 5, 20])
def test_paired_equals_scipy(chance, n):
    a, b = chance.normal(3.0, 0.1, n), chance.normal(3.1, 0.1, n)
    ours, theirs = difference(by_seed(a), by_seed(b)), stats.ttest_rel(a, b)
    interval = theirs.confidence_interval(0.95)
    assert (ours.test, ours.n) == ("paired", n)
    assert ours.mean == pytest.approx(np.mean(a - b), abs=1e-12)
    assert ours.p == pytest.approx(theirs.pvalue, rel=1e-9)
    assert (ours.low, ours.high) == pytest.approx((interval.low, interval.high), rel=1e-9)


@pytest.mark.parametrize(("n", "m"), [(2, 2), (3, 5), (10, 4)])
def test_welch_equals_scipy(chance, n, m):
    a, b = chance.normal(3.0, 0.3, n), chance.normal(3.1, 0.1, m)
    ours, theirs = difference(by_seed(a), by_seed(b, first=100)), stats.ttest_ind(a, b, equal_var=False)
    interval = theirs.confidence_interval(0.95)
    assert (ours.test, ours.n) == ("Welch", min(n, m))
    assert ours.p == pytest.approx(theirs.pvalue, rel=1e-9)
    assert (ours.low, ours.high) == pytest.approx((interval.low, interval.high), rel=1e-9)


def test_pairs_are_made_by_seed_not_by_order():
    ours = difference({2: 3.3, 0: 3.1, 1: 3.21}, {0: 3.0, 1: 3.1, 2: 3.2, 3: 9.0})
    assert (ours.test, ours.n) == ("paired", 3)
    assert ours.mean == pytest.approx((0.1 + 0.1 + 0.11) / 3)
    assert ours.p == pytest.approx(stats.ttest_rel([3.1, 3.21, 3.3], [3.0, 3.1, 3.2]).pvalue)


@pytest.mark.parametrize(
    ("a", "b", "mean"),
    [({0: 3.0}, {0: 3.2}, -0.2), ({0: 3.0}, {1: 3.2, 2: 3.4}, -0.3), ({}, {0: 1.0}, math.nan)],
)
def test_too_few_seeds_give_no_interval(a, b, mean):
    ours = difference(a, b)
    assert ours.test == "none"
    assert ours.mean == pytest.approx(mean, nan_ok=True)
    assert all(math.isnan(v) for v in (ours.low, ours.high, ours.p))


def test_one_pair_is_not_compared_with_other_seeds():
    assert difference({0: 3.0}, {0: 3.2, 1: 9.0}).mean == pytest.approx(-0.2)


def test_differences_without_spread_claim_nothing():
    same = {0: 3.0, 1: 3.1}
    assert (difference(same, dict(same)).p, difference(same, dict(same)).low) == (1.0, 0.0)
    shifted = difference({0: 3.5, 1: 3.6}, same)  # equal up to rounding: no noise to measure against
    assert shifted.mean == pytest.approx(0.5)
    assert math.isnan(shifted.p)
    values = np.array([3.0, 3.1, 3.21])
    for unit in (1e-6, 1e6):  # rounding is relative to the values: neither to one, nor to their small difference
        assert math.isnan(difference(by_seed(values * unit), by_seed((values + 1e-7) * unit)).p)


def test_ratio_is_the_difference_of_logarithms(chance):
    a, b = chance.uniform(1, 2, 5), chance.uniform(2, 3, 5)
    ours, logs = ratio(by_seed(a), by_seed(b)), stats.ttest_rel(np.log(a), np.log(b))
    interval = logs.confidence_interval(0.95)
    assert ours.mean == pytest.approx(stats.gmean(a / b))
    assert (ours.low, ours.high) == pytest.approx((math.exp(interval.low), math.exp(interval.high)))


def test_spread():
    assert spread([1.0, 2.0, 4.0]).sd == pytest.approx(stats.tstd([1.0, 2.0, 4.0]))
    assert math.isnan(spread([1.0]).sd)
    assert spread([]).n == 0


def test_holm_by_hand():
    # sorted: 0.01 * 3 = 0.03, 0.02 * 2 = 0.04, 0.03 * 1 -> not below its predecessor: 0.04
    assert holm([0.02, 0.01, 0.03]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.6, 0.9, 0.8]) == [1.0, 1.0, 1.0]  # a probability
    corrected = holm([0.5, math.nan, 0.4])
    assert corrected[0::2] == pytest.approx([0.8, 0.8])
    assert math.isnan(corrected[1])


@pytest.mark.parametrize("n", [3, 5])
def test_planted_null_is_rarely_called_different(chance, n):
    """Two copies of one method: seeds shift both, each run has its own noise."""
    called = 0
    for _ in range(REPEATS):
        shared = chance.normal(3.0, 0.05, n)
        a, b = shared + chance.normal(0, 0.01, n), shared + chance.normal(0, 0.01, n)
        called += difference(by_seed(a), by_seed(b)).p < 0.05
    assert called <= 0.05 * REPEATS


def test_planted_null_with_tuning_is_rarely_called_different(chance):
    """Each copy also picks the best of three equal learning rates on the same seeds."""
    called = 0
    for _ in range(REPEATS):
        shared = chance.normal(3.0, 0.05, 3)
        a, b = (min((shared + chance.normal(0, 0.01, 3) for _ in range(3)), key=np.mean) for _ in range(2))
        called += difference(by_seed(a), by_seed(b)).p < 0.05
    assert called <= 0.05 * REPEATS


def test_planted_effect_is_found_by_pairing(chance):
    """An effect smaller than the spread between seeds: seen when paired, lost when not."""
    paired = unpaired = 0
    for _ in range(REPEATS):
        shared = chance.normal(3.0, 0.05, 5)
        a, b = shared - 0.03 + chance.normal(0, 0.005, 5), shared + chance.normal(0, 0.005, 5)
        paired += difference(by_seed(a), by_seed(b)).p < 0.05
        unpaired += difference(by_seed(a), by_seed(b, first=100)).p < 0.05
    assert paired > 0.95 * REPEATS
    assert unpaired < 0.5 * REPEATS
