"""Settings of the trainer, the budget of a run among them, and the progress that a budget is measured by."""

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from ramen.errors import ConfigError
from ramen.training.loss import Policy
from ramen.training.profiling import BEFORE

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

    def behind(self, p: Progress) -> float:
        """The part of the run that has been trained, from 0 to 1 and beyond."""
        return self._part(p.step, p.tokens, p.seconds)

    def middle(self, p: Progress, batch_tokens: int, step_seconds: float = 0.0) -> float:
        """Progress in the middle of the coming step, in [0, 1]: no step has the end values of a schedule.

        The step will take `batch_tokens` tokens and, as long as no step was timed, about `step_seconds` seconds.
        """
        seconds = p.seconds / p.step if p.step else step_seconds
        return min(1.0, self._part(p.step + 0.5, p.tokens + batch_tokens / 2, p.seconds + seconds / 2))

    def passed(self, p: Progress, before: Mapping[str, float | None], checkpoint: Path) -> list[str]:
        """Problems: the budgets of a continuation that are less than the checkpoint's progress.

        A budget that is as it was `before` may be exceeded, by the last step of the run.
        """
        trained = {"steps": p.step, "tokens": p.tokens, "seconds": p.seconds}
        changed = [(key, value) for key, value in vars(self).items() if value is not None and value != before.get(key)]
        return [
            f"trainer.{key}: is less than {checkpoint} has behind it, got {value}; allowed is {trained[key]} or more"
            for key, value in changed
            if value < trained[key]
        ]

    def _part(self, step: float, tokens: float, seconds: float) -> float:
        pairs = ((step, self.steps), (tokens, self.tokens), (seconds, self.seconds))
        return max(used / budget for used, budget in pairs if budget is not None)

    def __str__(self) -> str:
        parts = [f"{value:,.0f} {unit}" for unit, value in vars(self).items() if value is not None]
        return " or ".join(parts) + (", whichever ends first" if len(parts) > 1 else "")


@dataclass(frozen=True)
class TrainerConfig:
    """Checked settings of the training loop. All lengths are in the unit of their name; None switches off."""

    sequence_length: int  # tokens of a row
    _: KW_ONLY
    steps: PositiveInt | None
    tokens: PositiveInt | None
    seconds: PositiveFloat | None
    default_steps: PositiveInt
    stop_after_steps: PositiveInt | None
    batch_tokens: PositiveInt
    micro_batch_tokens: PositiveInt | Literal["auto"]
    activation_checkpointing: bool
    cuda_graphs: bool
    profile_steps: PositiveInt | None
    prefetch_batches: NonNegativeInt | Literal["auto"]
    batch_lr_power: PositiveFloat | None
    freeze_scalar_steps: PositiveInt | None
    grad_clip: PositiveFloat | None
    record_every_steps: PositiveInt
    evaluate_every_steps: PositiveInt | None
    checkpoint_every_steps: PositiveInt | None
    checkpoint_at_end: bool
    keep_checkpoints: PositiveInt
    keep_best: bool
    nonfinite: Policy
    most_skipped_steps: NonNegativeInt

    def __post_init__(self) -> None:
        wrong = [
            f"trainer.{key}: must be at least data.sequence_length = {self.sequence_length}, got {value}"
            for key, value in (("batch_tokens", self.batch_tokens), ("micro_batch_tokens", self.micro_batch_tokens))
            if value != "auto" and value < self.sequence_length
        ]
        steps, needed = self.budget.steps, BEFORE + (self.profile_steps or 0)
        if self.profile_steps and steps is not None and steps < needed:
            wrong.append(
                f"trainer.profile_steps: needs {BEFORE} steps before it, got {self.profile_steps} of {steps} steps"
            )
        if wrong:
            raise ConfigError(*wrong)

    @property
    def budget(self) -> Budget:
        """The budgets that are set, or the default one when none is."""
        nothing = self.steps is None and self.tokens is None and self.seconds is None
        return Budget(self.default_steps if nothing else self.steps, self.tokens, self.seconds)

    @property
    def micro_rows(self) -> int:
        """Rows in memory at a time; with micro_batch_tokens=auto those of a batch, until ramen.build.run knows better."""
        tokens = self.batch_tokens if self.micro_batch_tokens == "auto" else self.micro_batch_tokens
        return tokens // self.sequence_length

    def with_micro_rows(self, rows: int) -> "TrainerConfig":
        return replace(self, micro_batch_tokens=rows * self.sequence_length)

    def rows(self, multiplier: float) -> int:
        """Rows of a step's batch under a multiplier: the last micro-batch of a step may be a smaller one."""
        return max(1, round(self.batch_tokens * multiplier / self.sequence_length))

    def lr_factor(self, rows: int) -> float:
        """The factor of the learning rate in a step of so many rows."""
        return (rows / self.rows(1.0)) ** (self.batch_lr_power or 0.0)
