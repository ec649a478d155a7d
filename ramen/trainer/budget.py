"""How long a run is, and how far it has come: steps, tokens or seconds, whichever ends first."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """At least one of the three is set."""

    steps: int | None
    tokens: int | None
    seconds: float | None

    def done(self, step: int, tokens: int, seconds: float) -> bool:
        """Whether a budget is used up."""
        return self._part(step, tokens, seconds) >= 1

    def progress(self, step: int, tokens: int, seconds: float, batch_tokens: int) -> float:
        """Progress in the middle of the coming step, in [0, 1]: neither the first nor the last step has a schedule's end value.

        `step`, `tokens`, `seconds` are what is behind, `batch_tokens` what the step will take.
        """
        half_step_seconds = seconds / step / 2 if step else 0.0
        return min(1.0, self._part(step + 0.5, tokens + batch_tokens / 2, seconds + half_step_seconds))

    def passed(
        self, step: int, tokens: int, seconds: float, before: Mapping[str, float | None]
    ) -> list[tuple[str, float, float]]:
        """(budget, its value, what is behind) where more is behind than a continuation's budget allows.

        The budget that was there `before` may be passed, by its last step.
        """
        behind = {"steps": step, "tokens": tokens, "seconds": seconds}
        now = [(key, value) for key, value in vars(self).items() if value is not None and value != before.get(key)]
        return [(key, value, behind[key]) for key, value in now if value < behind[key]]

    def _part(self, step: float, tokens: float, seconds: float) -> float:
        pairs = ((step, self.steps), (tokens, self.tokens), (seconds, self.seconds))
        return max(used / budget for used, budget in pairs if budget is not None)

    def __str__(self) -> str:
        told = [
            f"{self.steps:,} steps" if self.steps is not None else "",
            f"{self.tokens:,} tokens" if self.tokens is not None else "",
            f"{self.seconds:,.0f} seconds" if self.seconds is not None else "",
        ]
        return " or ".join(part for part in told if part) + (
            ", whichever ends first" if sum(map(bool, told)) > 1 else ""
        )
