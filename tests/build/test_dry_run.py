"""Refusals of a dry run: values that a schedule takes out of range, however short the stage."""

from collections.abc import Callable
from typing import Any

import pytest

from ramen.errors import ConfigError

SHORT = "boundaries: [0.4999, 0.5001]"  # a stage of 0.02 % of the run
CASES = {
    "window": (
        ("attention.long_window_tokens=8", "schedule@long_window_schedule=stepped",
         f"long_window_schedule={{values: [1.0, 0.0, 1.0], {SHORT}}}"),
        r"long_window_schedule: takes attention\.long_window_tokens = 8 below one token",
    ),
    "crossed windows": (
        ("attention.pattern=SL", "attention.long_window_tokens=8", "attention.short_window_tokens=5",
         "schedule@short_window_schedule=stepped", f"short_window_schedule={{values: [1.0, 2.0, 1.0], {SHORT}}}"),
        r"short_window_schedule: takes the short window above the long one, got 10 > 8",
    ),
    "mtp": (
        ("schedule@mtp_schedule=stepped", f"mtp_schedule={{values: [1.0, 2.0, 1.0], {SHORT}}}"),
        r"mtp_schedule: needs model\.mtp_weights, got \[\]",
    ),
    "hyperparameter": (
        ("optimizer=muon", "schedule@optimizer.momentum_schedule=stepped",
         f"optimizer.momentum_schedule={{values: [0.5, 2.0, 1.0], {SHORT}}}"),
        r"optimizer\.momentum_schedule: takes optimizer\.momentum to 1\.9: momentum must be in \[0, 1\), got 1\.9",
    ),
    "of another package": (
        ("optimizer=torch_muon", "schedule@optimizer.momentum_schedule=linear", "+schedule@optimizer.weight_decay_schedule=linear",
         "optimizer.weight_decay=-1"),
        r"(?i)^optimizer.*weight.decay",
    ),
    "learning rate": (
        ("optimizer=spectron", "linear=low_rank", "optimizer.lr=0.6", "schedule=piecewise",
         "schedule.multipliers=[0.0, 1.0, 2.0, 0.0]"),
        r"schedule: takes optimizer\.lr to 1\.2: lr must be in \[0, 1\], got 1\.2",
    ),
    "learning rate of a large batch": (
        ("optimizer=spectron", "linear=low_rank", "optimizer.lr=0.6", "trainer.batch_lr_power=1.0",
         "schedule@batch_schedule=stepped", f"batch_schedule={{values: [1.0, 2.0, 1.0], {SHORT}}}"),
        r"schedule: takes optimizer\.lr to 1\.2: lr must be in \[0, 1\], got 1\.2",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("overrides", "message"), CASES.values(), ids=CASES)
def test_a_value_out_of_range_is_refused_however_short(
    dry: Any, compose: Callable[..., dict[str, Any]], overrides: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        dry(compose("model.layers=2", "model.dim=16", "model.heads=2", *overrides))


def test_an_expected_cost_is_of_the_windows_of_the_run(dry: Any, compose: Callable[..., dict[str, Any]]) -> None:
    """Half of the run sees 4 keys at most, half of it 8."""
    size = ("model.layers=1", "model.dim=16", "model.heads=2", "attention.long_window_tokens=4")
    stages = ("schedule@long_window_schedule=stepped", "long_window_schedule={values: [1.0, 2.0], boundaries: [0.5]}")
    costs = [dry(compose(*size, *arguments)).costs["flops_per_token"] for arguments in ((), stages)]
    keys = [sum(min(query, window) for query in range(1, 33)) / 32 for window in (4, 8)]
    assert costs[1] - costs[0] == pytest.approx(12 * 16 * (keys[1] - keys[0]) / 2)
