"""The trainer's settings: checked, with all problems at once."""

from collections.abc import Callable
from typing import Any

import pytest

from ramen.config.check import check
from ramen.config.registry import build
from ramen.errors import ConfigError
from ramen.training.config import TrainerConfig


@pytest.fixture
def plan(compose: Callable[..., dict[str, Any]]) -> Callable[..., TrainerConfig]:
    """plan(**changes): the default settings but for these, with rows of 256 tokens."""
    return lambda **changes: build(compose()["trainer"] | changes, 256)


def test_without_a_budget_the_default_one_holds_and_with_one_it_does_not(plan: Callable[..., TrainerConfig]) -> None:
    assert plan(default_steps=7).budget.steps == 7
    assert plan(seconds=3.0).budget.steps is None


def test_all_problems_are_told_at_once_with_their_keys(compose: Callable[..., dict[str, Any]]) -> None:
    overrides = (
        "trainer.steps=0",
        "trainer.grad_clip=-1.0",
        "trainer.prefetch_batches=-1",
        "trainer.keep_checkpoints=0",
    )
    with pytest.raises(ConfigError) as raised:
        check(compose(*overrides))
    assert {f"{problem.split(':')[0]}" for problem in raised.value.problems} == {
        word.split("=")[0] for word in overrides
    }


def test_a_batch_has_at_least_a_row(plan: Callable[..., TrainerConfig]) -> None:
    with pytest.raises(ConfigError) as raised:
        plan(batch_tokens=100, micro_batch_tokens=255)
    wrong = {problem.split(":")[0] for problem in raised.value.problems}
    assert wrong == {"trainer.batch_tokens", "trainer.micro_batch_tokens"}


@pytest.mark.parametrize(("multiplier", "rows"), [(1.0, 4), (2.0, 8), (0.5, 2), (0.1, 1), (1.3, 5), (1.6, 6)])
def test_the_batch_follows_its_schedule_whatever_fits_in_memory(
    plan: Callable[..., TrainerConfig], multiplier: float, rows: int
) -> None:
    for micro in (256, 768, 4096, "auto"):
        assert plan(batch_tokens=1024, micro_batch_tokens=micro).rows(multiplier) == rows
