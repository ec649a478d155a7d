"""How long a run is, and how far it has come: steps, tokens or seconds, whichever ends first."""

from collections.abc import Mapping
from dataclasses import dataclass

from ramen.training.setup import Progress


@dataclass(frozen=True)
class Budget:
    """At least one of the three is set."""

    steps: int | None
    tokens: int | None
    seconds: float | None

    def done(self, p: Progress) -> bool:
        """Whether a budget is used up."""
        return self._part(p.step, p.tokens, p.seconds) >= 1

    def progress(self, p: Progress, batch_tokens: int = 0) -> float:
        """Progress in the middle of the coming step, in [0, 1]: neither the first nor the last step has a schedule's end value.

        `p` is what is behind, `batch_tokens` what the step will take.
        """
        half_step_seconds = p.seconds / p.step / 2 if p.step else 0.0
        return min(1.0, self._part(p.step + 0.5, p.tokens + batch_tokens / 2, p.seconds + half_step_seconds))

    def passed(self, p: Progress, before: Mapping[str, float | None]) -> list[tuple[str, float, float]]:
        """(budget, its value, what is behind) where more is behind than a continuation's budget allows.

        The budget that was there `before` may be passed, by its last step.
        """
        behind = {"steps": p.step, "tokens": p.tokens, "seconds": p.seconds}
        now = [(key, value) for key, value in vars(self).items() if value is not None and value != before.get(key)]
        return [(key, value, behind[key]) for key, value in now if value < behind[key]]

    def _part(self, step: float, tokens: float, seconds: float) -> float:
        pairs = ((step, self.steps), (tokens, self.tokens), (seconds, self.seconds))
        return max(used / budget for used, budget in pairs if budget is not None)

    def __str__(self) -> str:
        told = [f"{value:,.0f} {unit}" for unit, value in vars(self).items() if value is not None]
        return " or ".join(told) + (", whichever ends first" if len(told) > 1 else "")
