"""Every option of conf/schedule: a pure function of progress with values one can multiply by."""

import functools
import itertools
import math

import pytest

from ramen.config.check import check, schedules
from ramen.config.registry import factory, locate, options

STEPS = 5000
GRID = [i / STEPS for i in range(STEPS + 1)]


@pytest.fixture(params=options("schedule"))
def curve(request, compose):
    node = compose(f"schedule={request.param}")["schedule"]
    return functools.partial(locate(node.pop("_target_")), **node)  # factory(node), a hundred times as fast a call


@pytest.fixture
def stages(curve):
    """The multipliers of a schedule that is meant to jump; None for the others."""
    return curve.keywords.get("values")


def test_values_are_plain_numbers_not_below_zero(curve):
    for progress in GRID[:: STEPS // 20]:
        value = curve(progress)
        assert isinstance(value, float) and math.isfinite(value) and value >= 0


def test_the_same_progress_gives_the_same_value_in_any_order(curve):
    """Pure: a resumed run, which starts in the middle, sees what the uninterrupted one saw."""
    forward = [curve(progress) for progress in GRID]
    assert [curve(progress) for progress in reversed(GRID)] == forward[::-1]


def test_no_jump_but_between_stages(curve, stages):
    values = [curve(progress) for progress in GRID]
    jumps = [(a, b) for a, b in itertools.pairwise(values) if abs(b - a) > 0.1]
    assert jumps == ([] if stages is None else list(itertools.pairwise(stages)))


def test_rises_to_one_then_falls(curve, stages):
    """The multiplier is of the configured value, which is therefore the peak of the run."""
    values = [curve(progress) for progress in GRID]
    if stages is not None:
        assert set(values) == set(stages)
        return
    peak = values.index(max(values))
    assert values[peak] == pytest.approx(1.0, abs=1e-3)
    assert values[: peak + 1] == sorted(values[: peak + 1])
    assert values[peak:] == sorted(values[peak:], reverse=True)


def test_ends_are_the_configured_ones(curve):
    given = curve.keywords
    if "start" in given:
        assert curve(0.0) == pytest.approx(given["start"])
    if "final" in given:
        assert curve(1.0) == given["final"]


def test_can_schedule_any_hyperparameter(curve, request, compose):
    """The same node under `momentum_schedule` of an optimizer."""
    name = request.node.callspec.params["curve"]
    config = compose("optimizer=muon")
    config["optimizer"]["momentum_schedule"] = compose(f"schedule={name}")["schedule"]
    check(config)
    nested = factory(schedules(config["optimizer"])["momentum"])
    assert [nested(progress) for progress in (0.0, 0.3, 1.0)] == [curve(progress) for progress in (0.0, 0.3, 1.0)]
