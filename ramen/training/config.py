"""How long to train, on how much at a time, and when to record, evaluate and save."""

from dataclasses import KW_ONLY, dataclass, replace
from typing import Literal

from ramen.errors import ConfigError
from ramen.training.nonfinite import Policy
from ramen.training.profiling import BEFORE
from ramen.training.progress import Budget

NEVER_OFF = ("default_steps", "batch_tokens", "micro_batch_tokens", "record_every_steps", "keep_checkpoints")


@dataclass(frozen=True)
class TrainerConfig:
    """Checked settings of the training loop. All lengths are in the unit of their name; None switches off."""

    sequence_length: int  # tokens of a row
    _: KW_ONLY
    steps: int | None
    tokens: int | None
    seconds: float | None
    default_steps: int
    stop_after_steps: int | None
    batch_tokens: int
    micro_batch_tokens: int | Literal["auto"]
    activation_checkpointing: bool
    cuda_graphs: bool
    profile_steps: int | None
    prefetch_batches: int | Literal["auto"]
    batch_lr_power: float | None
    freeze_scalar_steps: int | None
    grad_clip: float | None
    record_every_steps: int
    evaluate_every_steps: int | None
    checkpoint_every_steps: int | None
    checkpoint_at_end: bool
    keep_checkpoints: int
    keep_best: bool
    nonfinite: Policy
    most_skipped_steps: int

    def __post_init__(self) -> None:
        wrong = []
        for key, value in vars(self).items():
            if key in ("most_skipped_steps", "prefetch_batches") and not isinstance(value, str):
                wrong += [f"trainer.{key}: must be >= 0, got {value}"] if value < 0 else []
            elif isinstance(value, bool | str) or value is None:
                continue
            elif value <= 0:
                wrong.append(f"trainer.{key}: must be > 0{'' if key in NEVER_OFF else ' or null'}, got {value}")
            elif key in ("batch_tokens", "micro_batch_tokens") and value < self.sequence_length:
                wrong.append(
                    f"trainer.{key}: must be at least data.sequence_length = {self.sequence_length}, got {value}"
                )
        if self.profile_steps and self.budget.steps is not None and self.budget.steps < self.profile_steps + BEFORE:
            wrong.append(
                f"trainer.profile_steps: needs {BEFORE} steps before it, got {self.profile_steps} of {self.budget.steps} steps"
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
