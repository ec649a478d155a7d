"""Progress over steps, tokens or seconds."""

import pytest

from ramen.training.budget import Budget
from ramen.training.setup import Progress


@pytest.mark.parametrize(
    ("budget", "middle"),
    [
        (Budget(10, None, None), (4 + 0.5) / 10),
        (Budget(None, 2000, None), (400 + 50) / 2000),
        (Budget(None, None, 8.0), (2.0 + 0.25) / 8),
        (Budget(10, 500, 8.0), 450 / 500),  # the one that ends first rules
    ],
)
def test_progress_is_of_the_middle_of_the_coming_step(budget: Budget, middle: float) -> None:
    assert budget.progress(Progress(4, 400, 2.0), batch_tokens=100) == pytest.approx(middle)


def test_a_run_of_n_steps_never_sees_the_ends_of_a_schedule_and_ends_after_n() -> None:
    budget = Budget(4, None, None)
    seen = [budget.progress(Progress(step)) for step in range(4)]
    assert seen == [0.125, 0.375, 0.625, 0.875]
    assert [budget.done(Progress(step)) for step in (3, 4)] == [False, True]


def test_the_first_step_of_a_budget_of_seconds_starts_at_zero_and_the_last_does_not_pass_one() -> None:
    budget = Budget(None, None, 10.0)
    assert budget.progress(Progress()) == 0.0
    assert budget.progress(Progress(2, 0, 9.9)) == 1.0


def test_budgets_are_told_in_words() -> None:
    assert str(Budget(1000, None, None)) == "1,000 steps"
    assert str(Budget(10, 5, None)) == "10 steps or 5 tokens, whichever ends first"
