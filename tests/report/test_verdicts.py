"""Verdicts on simulated comparisons: hardly ever where there is no difference, mostly where one was planted.

`python -m benchmarks.verdicts` tries more protocols more often.
"""

import pytest

from benchmarks.verdicts import FLAT7, NULLS, PLANTED, SHARP7, Protocol, rate, rate_of_adding_seeds


@pytest.mark.parametrize(
    ("protocol", "repeats"),
    [
        (Protocol(((0,), FLAT7), 3), 200),
        (Protocol((SHARP7, FLAT7), 5), 200),
        (NULLS["6 methods, 7 rates against the baseline's 1, 4 seeds"], 80),
    ],
)
def test_no_difference_hardly_gets_a_verdict(protocol, repeats):
    """With any number of settings to choose from; without an allowance for luck these are 8, 10 and 20 %."""
    assert rate(protocol, repeats) <= 0.06


def test_the_seeds_asked_for_find_a_difference():
    assert rate(PLANTED["one rate each, better by 2 sd"], 150) >= 0.8


def test_adding_seeds_until_it_is_significant_is_no_test():
    assert rate_of_adding_seeds(3, 10, 400) > 0.12
