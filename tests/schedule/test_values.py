"""Schedules by hand: the multiplier at points of the run that can be worked out."""

import math

import pytest

from ramen.config.registry import factory

RAMP = {"start": 0.1, "final": 0.2, "warmup_fraction": 0.1}
TABLE = {
    "constant": ({}, {0.0: 1.0, 0.5: 1.0, 1.0: 1.0}),
    "linear": (
        RAMP | {"cooldown_fraction": 0.4},
        {0.0: 0.1, 0.05: 0.55, 0.1: 1.0, 0.35: 1.0, 0.6: 1.0, 0.7: 0.8, 0.8: 0.6, 0.9: 0.4, 1.0: 0.2},
    ),
    "cosine": (
        RAMP,
        {0.0: 0.1, 0.05: 0.55, 0.1: 1.0, 0.325: 0.2 + 0.8 * (1 + math.sqrt(0.5)) / 2, 0.55: 0.6, 0.7: 0.4, 1.0: 0.2},
    ),
    "wsd": (
        RAMP | {"decay_fraction": 0.4},
        {0.0: 0.1, 0.05: 0.55, 0.1: 1.0, 0.6: 1.0, 0.7: 0.6, 0.825: 0.4, 1.0: 0.2},  # 1 - sqrt(1/4), 1 - sqrt(9/16)
    ),
    "piecewise": (
        {"multipliers": [0.2, 1.0, 0.5], "fractions": [0.1, 0.2, 0.6]},
        {0.0: 0.2, 0.1: 0.2, 0.15: 0.6, 0.2: 1.0, 0.4: 0.75, 0.6: 0.5, 1.0: 0.5},
    ),
    "stepped": (
        {"values": [1.0, 3.0, 0.5], "boundaries": [0.25, 0.75]},
        {0.0: 1.0, 0.2499: 1.0, 0.25: 3.0, 0.5: 3.0, 0.75: 0.5, 1.0: 0.5},
    ),
}
POINTS = [(name, changed, p, value) for name, (changed, table) in TABLE.items() for p, value in table.items()]


@pytest.mark.parametrize(("name", "changed", "progress", "value"), POINTS)
def test_value(compose, name, changed, progress, value):
    curve = factory(compose(f"schedule={name}")["schedule"] | changed)
    assert curve(progress) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize(
    ("progress", "momentum"), [(0.0, 0.85025), (0.05, 0.900125), (0.1, 0.95), (0.5, 0.95), (0.9, 0.95), (1.0, 0.85025)]
)
def test_the_momentum_preset_goes_from_085_to_095_and_back(compose, progress, momentum):
    curve = factory(compose("optimizer=muon")["optimizer"]["momentum_schedule"])
    assert 0.95 * curve(progress) == pytest.approx(momentum, abs=1e-12)


WITHOUT = {"warmup_fraction": 0.0}


@pytest.mark.parametrize(
    ("name", "changed", "at_start", "at_end"),
    [
        ("linear", WITHOUT | {"cooldown_fraction": 0.5}, 1.0, 0.2),
        ("linear", WITHOUT | {"cooldown_fraction": 0.0}, 1.0, 1.0),
        ("linear", WITHOUT | {"cooldown_fraction": 1.0}, 1.0, 0.2),
        ("linear", {"warmup_fraction": 1.0, "cooldown_fraction": 0.0}, 0.1, 1.0),
        ("wsd", WITHOUT | {"decay_fraction": 0.0}, 1.0, 1.0),
        ("wsd", WITHOUT | {"decay_fraction": 1.0}, 1.0, 0.2),
        ("wsd", {"warmup_fraction": 0.3, "decay_fraction": 0.7}, 0.1, 0.2),
        ("cosine", WITHOUT, 1.0, 0.2),
        ("cosine", {"warmup_fraction": 1.0}, 0.1, 1.0),
        ("stepped", {"values": [2.0], "boundaries": []}, 2.0, 2.0),
        ("piecewise", {"multipliers": [2.0], "fractions": [0.5]}, 2.0, 2.0),
        ("piecewise", {"multipliers": [0.5, 1.0], "fractions": [0.0, 1.0]}, 0.5, 1.0),
    ],
)
def test_fractions_of_nothing_and_of_the_whole_run(compose, name, changed, at_start, at_end):
    config = compose(f"schedule={name}")["schedule"]
    curve = factory(config | {key: value for key, value in RAMP.items() if key in config} | changed)
    assert (curve(0.0), curve(1.0)) == pytest.approx((at_start, at_end))


@pytest.mark.parametrize(
    ("name", "changed", "message"),
    [
        ("linear", {"warmup_fraction": -0.1}, r"warmup_fraction must be in \[0, 1\], got -0.1"),
        ("linear", {"cooldown_fraction": 1.5}, r"cooldown_fraction must be in \[0, 1\], got 1.5"),
        ("linear", {"warmup_fraction": 0.6, "cooldown_fraction": 0.6}, r"warmup_fraction \+ cooldown_fraction .* 1.2"),
        ("linear", {"start": -1.0}, "start must be >= 0, got -1"),
        ("cosine", {"final": -0.5}, "final must be >= 0, got -0.5"),
        ("cosine", {"start": float("inf")}, "start must be >= 0, got inf"),
        ("cosine", {"warmup_fraction": float("nan")}, "warmup_fraction must be in"),
        ("wsd", {"final": float("nan")}, "final must be >= 0, got nan"),
        ("wsd", {"warmup_fraction": 0.9, "decay_fraction": 0.2}, r"warmup_fraction \+ decay_fraction .* 1.1"),
        ("piecewise", {"multipliers": [1.0]}, "multipliers must be as many as fractions, got 1 and 4"),
        ("piecewise", {"multipliers": [], "fractions": []}, "multipliers must be as many as fractions, got 0 and 0"),
        ("piecewise", {"multipliers": [1.0, -1.0], "fractions": [0.0, 1.0]}, "multipliers must be >= 0"),
        ("piecewise", {"multipliers": [1.0, 0.5], "fractions": [0.5, 0.5]}, r"fractions must rise .* \[0.5, 0.5\]"),
        ("piecewise", {"multipliers": [1.0, 0.5], "fractions": [0.5, 0.2]}, r"fractions must rise .* \[0.5, 0.2\]"),
        ("piecewise", {"multipliers": [1.0, 0.5], "fractions": [0.5, 1.5]}, r"fractions must rise .* \[0.5, 1.5\]"),
        ("stepped", {"values": [1.0, 2.0]}, "values must be one more than boundaries, got 2 and 3"),
        ("stepped", {"values": [1.0, -2.0], "boundaries": [0.5]}, "values must be >= 0, got -2"),
        ("stepped", {"values": [1.0, 2.0, 3.0], "boundaries": [0.5, 0.5]}, r"boundaries must rise .* \[0.5, 0.5\]"),
        ("stepped", {"values": [1.0, 2.0, 3.0], "boundaries": [0.7, 0.3]}, r"boundaries must rise .* \[0.7, 0.3\]"),
        ("stepped", {"values": [1.0, 2.0], "boundaries": [1.0]}, r"boundaries must rise .* \[1.0\]"),
    ],
)
def test_an_impossible_schedule_is_refused_with_its_numbers(compose, name, changed, message):
    """At any progress: a run is refused at its start, not in its cool-down."""
    curve = factory(compose(f"schedule={name}")["schedule"] | changed)
    for progress in (0.0, 0.5, 1.0):
        with pytest.raises(ValueError, match=message):
            curve(progress)
