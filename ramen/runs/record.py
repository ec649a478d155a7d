"""What is known of a training run at a step: one frozen record, one line of metrics.jsonl."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Record:
    """Training figures since the record before; `val_loss` on evaluation records only.

    Losses are nats a token; `seconds` is training alone, without start-up, compilation, evaluation and checkpoints.
    """

    step: int
    tokens: int
    epoch: int
    seconds: float
    train_loss: float | None
    val_loss: float | None
    val_bits_per_byte: float | None
    grad_norm: float
    skipped_steps: int  # since the start of the run
    batch_tokens: int
    tokens_per_second: float
    mfu: float | None  # share of the device's peak, 0 to 1; None where the peak is not known
    peak_memory: int | None  # bytes
    hyperparameters: dict[str, float]  # lr, momentum, auxiliary_lr ... as set for this step

    def as_line(self) -> dict[str, Any]:
        """Flat: hyperparameters beside the rest."""
        flat = asdict(self)
        return flat | flat.pop("hyperparameters")
