"""The budget of a run, its progress, and the ways it can end."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Status = Literal["finished", "stopped", "diverged"]


@dataclass
class Progress:
    """The counts and clocks of a run, saved in every checkpoint."""

    step: int = 0
    tokens: int = 0
    flops: float = 0.0
    seconds: float = 0.0  # of training alone
    evaluation_seconds: float = 0.0
    compile_seconds: float = 0.0
    skipped_steps: int = 0  # whose loss or gradient was not finite, under trainer.nonfinite=skip
    train_loss: float | None = None  # of the last record
    val_loss: float | None = None  # of the last evaluation
    evaluated_step: int = 0
    best_val_loss: float = math.inf
    first_loss: float | None = None  # of the first step that counted
    counted: int = 0  # targets since the last record
    records: int = 0
    recorded_tokens: int = 0
    recorded_flops: float = 0.0
    recorded_seconds: float = 0.0


@dataclass(frozen=True)
class Budget:
    """Steps, tokens or seconds, whichever ends first; at least one of the three is set."""

    steps: int | None
    tokens: int | None
    seconds: float | None

    def done(self, p: Progress) -> bool:
        """True once a budget is used up."""
        return self.behind(p) >= 1

    def behind(self, p: Progress) -> float:
        """The part of the run that has been trained, from 0 to 1 and beyond."""
        return self._part(p.step, p.tokens, p.seconds)

    def middle(self, p: Progress, batch_tokens: int, step_seconds: float = 0.0) -> float:
        """Progress in the middle of the coming step, in [0, 1]: no step has the end values of a schedule.

        The step will take `batch_tokens` tokens and, as long as no step was timed, about `step_seconds` seconds.
        """
        seconds = p.seconds / p.step if p.step else step_seconds
        return min(1.0, self._part(p.step + 0.5, p.tokens + batch_tokens / 2, p.seconds + seconds / 2))

    def passed(self, p: Progress, before: Mapping[str, float | None]) -> list[tuple[str, float, float]]:
        """(budget, its value, what was trained) where more was trained than a continuation's budget allows.

        A budget that is as it was `before` may be exceeded, by the last step of the run.
        """
        trained = {"steps": p.step, "tokens": p.tokens, "seconds": p.seconds}
        changed = [(key, value) for key, value in vars(self).items() if value is not None and value != before.get(key)]
        return [(key, value, trained[key]) for key, value in changed if value < trained[key]]

    def _part(self, step: float, tokens: float, seconds: float) -> float:
        pairs = ((step, self.steps), (tokens, self.tokens), (seconds, self.seconds))
        return max(used / budget for used, budget in pairs if budget is not None)

    def __str__(self) -> str:
        parts = [f"{value:,.0f} {unit}" for unit, value in vars(self).items() if value is not None]
        return " or ".join(parts) + (", whichever ends first" if len(parts) > 1 else "")
