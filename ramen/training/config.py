"""Settings of the trainer: budget, batch, memory, and when to record, evaluate and save."""

from dataclasses import KW_ONLY, dataclass, replace
from typing import Literal

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from ramen.errors import ConfigError
from ramen.training.nonfinite import Policy
from ramen.training.profiling import BEFORE
from ramen.training.progress import Budget


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
        """The same with so many rows in memory at a time."""
        return replace(self, micro_batch_tokens=rows * self.sequence_length)

    def rows(self, multiplier: float) -> int:
        """Rows of a step's batch under a multiplier: the last micro-batch of a step may be a smaller one."""
        return max(1, round(self.batch_tokens * multiplier / self.sequence_length))

    def lr_factor(self, rows: int) -> float:
        """The factor of the learning rate in a step of so many rows."""
        return (rows / self.rows(1.0)) ** (self.batch_lr_power or 0.0)
