"""Progress over steps, tokens or seconds."""

import pytest

from ramen.training.config import Budget, Progress


@pytest.mark.parametrize(
    ("budget", "behind", "middle"),
    [
        (Budget(10, None, None), 4 / 10, (4 + 0.5) / 10),
        (Budget(None, 2000, None), 400 / 2000, (400 + 50) / 2000),
        (Budget(None, None, 8.0), 2.0 / 8, (2.0 + 0.25) / 8),
        (Budget(10, 500, 8.0), 400 / 500, 450 / 500),  # the one that ends first rules
    ],
)
def test_progress_is_behind_a_step_or_in_its_middle(budget: Budget, behind: float, middle: float) -> None:
    p = Progress(step=4, tokens=400, seconds=2.0)
    assert budget.behind(p) == pytest.approx(behind)
    assert budget.middle(p, batch_tokens=100) == pytest.approx(middle)


def test_no_step_has_the_end_values_of_a_schedule() -> None:
    budget = Budget(4, None, None)
    assert [budget.middle(Progress(step), 1) for step in range(4)] == [0.125, 0.375, 0.625, 0.875]
    assert [budget.behind(Progress(step)) < 1 for step in (3, 4)] == [True, False]


def test_seconds_know_the_first_step_by_a_trial_and_end_at_one() -> None:
    budget = Budget(None, None, 10.0)
    assert budget.middle(Progress(), 1, step_seconds=2.0) == 0.1
    assert budget.middle(Progress(step=2, seconds=9.9), 1, step_seconds=2.0) == 1.0


def test_budgets_are_told_in_words() -> None:
    assert str(Budget(1000, None, None)) == "1,000 steps"
    assert str(Budget(10, 5, None)) == "10 steps or 5 tokens, whichever ends first"
