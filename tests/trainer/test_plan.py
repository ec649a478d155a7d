"""The trainer's settings: checked, with all problems at once."""

from typing import Any

import pytest

from ramen.errors import ConfigError
from ramen.trainer.plan import Plan

GOOD: dict[str, Any] = {
    **dict.fromkeys(
        (
            "steps",
            "tokens",
            "seconds",
            "stop_after_steps",
            "evaluate_every_steps",
            "checkpoint_every_steps",
            "batch_lr_power",
            "freeze_scalar_steps",
            "profile_steps",
        )
    ),
    **dict(default_steps=7, batch_tokens=1024, micro_batch_tokens=512, grad_clip=1.0, prefetch_batches=0),
    **dict(record_every_steps=1, checkpoint_at_end=True, keep_checkpoints=1, keep_best=False),
    **dict(activation_checkpointing=False, cuda_graphs=False, nonfinite="stop", most_skipped_steps=0),
}


def test_without_a_budget_the_default_one_holds_and_with_one_it_does_not() -> None:
    assert Plan(256, **GOOD).budget.steps == 7
    assert Plan(256, **GOOD | {"seconds": 3.0}).budget.steps is None


def test_all_problems_are_told_at_once_with_their_keys() -> None:
    with pytest.raises(ConfigError) as told:
        Plan(256, **GOOD | {"steps": 0, "grad_clip": -1.0, "batch_tokens": 100, "keep_checkpoints": 0})
    assert {problem.split(":")[0] for problem in told.value.problems} == {
        "trainer.steps",
        "trainer.grad_clip",
        "trainer.keep_checkpoints",
        "trainer.batch_tokens",
    }


@pytest.mark.parametrize(("multiplier", "rows"), [(1.0, 4), (2.0, 8), (0.5, 2), (0.1, 1), (1.3, 5), (1.6, 6)])
def test_the_batch_follows_its_schedule_whatever_fits_in_memory(multiplier: float, rows: int) -> None:
    for micro in (256, 768, 4096, "auto"):
        assert Plan(256, **GOOD | {"micro_batch_tokens": micro}).rows(multiplier) == rows
