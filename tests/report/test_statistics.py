"""The report's statistics against scipy.stats on the same numbers, and against what was planted."""

import math

import numpy as np
import pytest
from scipy import stats

from ramen.report.statistics import difference, holm, luck_of_choice, ratio, seeds_needed, spread

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
    assert ours.interval() == pytest.approx((interval.low, interval.high), rel=1e-12)


@pytest.mark.parametrize(("n", "m"), [(2, 2), (3, 5), (10, 4)])
def test_welch_equals_scipy(chance, n, m):
    a, b = chance.normal(3.0, 0.3, n), chance.normal(3.1, 0.1, m)
    ours, theirs = difference(by_seed(a), by_seed(b, first=100)), stats.ttest_ind(a, b, equal_var=False)
    interval = theirs.confidence_interval(0.95)
    assert (ours.test, ours.n) == ("Welch", min(n, m))
    assert ours.p == pytest.approx(theirs.pvalue, rel=1e-9)
    assert ours.interval() == pytest.approx((interval.low, interval.high), rel=1e-12)


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
    assert all(math.isnan(v) for v in (*ours.interval(), ours.p))


def test_one_pair_is_not_compared_with_other_seeds():
    assert difference({0: 3.0}, {0: 3.2, 1: 9.0}).mean == pytest.approx(-0.2)


def test_differences_without_spread_claim_nothing():
    same = {0: 3.0, 1: 3.1}
    assert (difference(same, dict(same)).p, difference(same, dict(same)).interval()) == (1.0, (0.0, 0.0))
    shifted = difference({0: 3.5, 1: 3.6}, same)  # equal up to rounding: no noise to measure against
    assert shifted.mean == pytest.approx(0.5)
    assert math.isnan(shifted.p)
    values = np.array([3.0, 3.1, 3.21])
    for unit in (1e-6, 1e6):  # rounding is relative to the values: neither to one, nor to their small difference
        assert math.isnan(difference(by_seed(values * unit), by_seed((values + 1e-7) * unit)).p)


def test_ratio_is_the_difference_of_logarithms(chance):
    a, b = chance.uniform(1, 2, 5), chance.uniform(2, 3, 5)
    logs = stats.ttest_rel(np.log(a), np.log(b)).confidence_interval(0.95)
    expected = (stats.gmean(a / b), math.exp(logs.low), math.exp(logs.high))
    assert ratio(by_seed(a), by_seed(b)) == pytest.approx(expected)


@pytest.mark.parametrize("first", [0, 100])
def test_luck_widens_the_interval_on_its_side_and_p_follows(chance, first):
    a, b = by_seed(chance.normal(3.0, 0.1, 6)), by_seed(chance.normal(3.3, 0.1, 6), first)
    plain, lucky, unlucky = (difference(a, b, luck) for luck in (0.0, 0.25, -0.25))
    assert lucky.interval() == pytest.approx((plain.interval()[0], plain.interval()[1] + 0.25))
    assert unlucky.interval() == pytest.approx((plain.interval()[0] - 0.25, plain.interval()[1]))
    assert unlucky.p == plain.p < 0.05 < lucky.p
    assert difference(a, b, 1.0).p == 1.0
    for gap in (plain, lucky, difference(a, b, 0.05)):  # an interval at level 1 - p ends at zero
        assert gap.interval(1 - gap.p)[1] == pytest.approx(0, abs=1e-9)


def test_luck_of_choice(chance):
    """Of seven equal settings the best is 1.35 standard errors of a mean below the truth, on average; far ones do not count."""
    lucks, owed = [], []
    for _ in range(REPEATS):
        settings = sorted(chance.normal(0, 1, (7, 4)), key=np.mean)
        best, *others = map(by_seed, settings)
        lucks.append(luck_of_choice(best, others))
        owed.append(-np.mean(settings[0]))
    assert np.mean(owed) == pytest.approx(1.35 / 2, abs=0.05)
    assert np.mean(lucks) == pytest.approx(np.mean(owed), abs=0.1)
    assert luck_of_choice(best, [{seed: value + 50 for seed, value in other.items()} for other in others]) == 0
    assert luck_of_choice(best, []) == luck_of_choice({}, others) == 0


@pytest.mark.parametrize(("effect", "comparisons"), [(2.0, 1), (1.0, 1), (1.0, 5)])
def test_seeds_needed_is_the_least_with_that_power(effect, comparisons):
    n = seeds_needed(-effect * 3, 3, comparisons)

    def power(n):  # against scipy's, written for another purpose
        bound = stats.t.isf(0.025 / comparisons, n - 1)
        return stats.nct.sf(bound, n - 1, effect * math.sqrt(n))

    assert power(n - 1) < 0.85 <= power(n)


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
