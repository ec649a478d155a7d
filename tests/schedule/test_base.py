"""Where schedules are looked at before a run: no value that a run can meet is left out."""

import functools

import pytest

from ramen.schedule.base import turning_points
from ramen.schedule.linear import linear
from ramen.schedule.piecewise import piecewise
from ramen.schedule.stepped import stepped

STEPPED = functools.partial(stepped, values=[1.0, 0.0, 2.0, 3.0], boundaries=[0.3333, 0.33331, 0.9999])
PIECEWISE = functools.partial(piecewise, multipliers=[1.0, 1.0, 7.0, 1.0], fractions=[0.0, 0.5001, 0.5002, 0.5003])
LINEAR = functools.partial(linear, start=0.5, final=0.0, warmup_fraction=0.0003, cooldown_fraction=0.0007)


def test_every_value_of_short_stages_is_met() -> None:
    schedule = functools.partial(STEPPED, boundaries=sorted(STEPPED.keywords["boundaries"]))
    assert {*map(schedule, turning_points(schedule))} == {1.0, 0.0, 2.0, 3.0}


@pytest.mark.parametrize(("schedule", "extremes"), [(PIECEWISE, (1.0, 7.0)), (LINEAR, (0.0, 1.0))])
def test_extremes_of_straight_lines_are_met(schedule: functools.partial[float], extremes: tuple[float, float]) -> None:
    values = [*map(schedule, turning_points(schedule))]
    assert (min(values), max(values)) == extremes


def test_points_of_several_schedules_are_in_order_from_end_to_end() -> None:
    points = turning_points(PIECEWISE, LINEAR)
    assert points == sorted(set(points)) and (points[0], points[-1]) == (0.0, 1.0)
    assert {0.0003, 1 - 0.0007, 0.5002} <= {*points}


def test_a_function_that_hides_where_it_turns_is_looked_at_on_a_grid() -> None:
    assert len(turning_points(lambda progress: progress**2)) == 101
