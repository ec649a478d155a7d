"""The records of a run folder, field by field. Losses are nats a token, sizes bytes, times seconds, hashes hexadecimal.

`format` is the version: 1 (ramen 0.1, which did not write it) is read like 2; a larger one is refused.
"""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from ramen.errors import DataError
from ramen.runs.atomic import read_whole

FORMAT = 2


class _Record(BaseModel):
    """A json object; fields that are not named are kept as they are."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)

    format: int = 1

    @classmethod
    def read(cls, path: Path) -> dict[str, Any]:
        """The content of a file, checked; empty where there is none. DataError for a wrong type or a newer format."""
        content = read_whole(path, dict)
        if isinstance(version := content.get("format"), int) and version > FORMAT:
            raise DataError(f"{path}: is of a newer ramen, got format {version}; this one reads up to {FORMAT}")
        try:
            if content:
                cls.model_validate(content)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"]))
            raise DataError(f"{path}: is damaged, {field}: {first['msg']}, got {first['input']!r:.80}") from error
        return content


class _Run(_Record):
    """Fields of the summary and of each part."""

    choices: dict[str, str | None] | None = None  # config group -> option
    job: int | None = None  # number in its sweep; null for a single run
    run_id: str | None = None  # at a service
    config_hash: str | None = None  # of a part: of its config.yaml; of the run: of the budgets, too, where they changed
    data_hash: str | None = None
    attention_backend: str | None = None


class Summary(_Run):
    """summary.json: what was run and how it ended. Written at the end, and at a failure."""

    status: str | None = None  # finished, stopped, diverged or failed
    error: str | None = None  # why it is not finished
    seed: Any = None  # a refused config may have none
    overrides: list[str] | None = None  # of the command
    sha256: str | None = None  # of all other fields
    resumed_step: int | None = None  # of the checkpoint that the last part of the run began at
    budgets: list[dict[str, float | None]] | None = None  # of each part; more than one value is no fresh run
    data: str | None = None  # sizes and folder, as a sentence
    parameters: int | None = None
    parameters_without_embeddings: int | None = None
    flops_per_token: float | int | None = None
    memory: dict[str, float] | None = None  # expected, by part
    memory_peak: int | None = None  # expected, in total
    micro_batch_tokens: int | str | None = None  # that `auto` became
    precision: str | None = None  # that `auto` became
    compile: str | None = None
    final_val_loss: float | None = None
    final_val_bits_per_byte: float | None = None
    best_val_loss: float | None = None
    final_train_loss: float | None = None
    steps: int | None = None
    skipped_steps: int | None = None
    tokens: int | None = None
    train_seconds: float | None = None
    evaluation_seconds: float | None = None
    compile_seconds: float | None = None
    wall_seconds: float | None = None  # of a failure alone
    tokens_per_second: float | None = None
    peak_memory: int | None = None  # measured
    metrics_sha256: str | None = None  # of the file of the metrics


class Part(_Run):
    """Where a run ran, from a step on: an entry of environment.json, which 0.1 had one of, flat."""

    from_step: int = 0
    started: str | None = None  # date and time, UTC
    device: str | None = None
    device_type: str | None = None
    threads: int | None = None
    python: str | None = None
    platform: str | None = None
    versions: dict[str, str | None] | None = None  # of packages
    git_commit: str | None = None
    git_diff: str | None = None  # what differs from the commit, untracked files included
    code_hash: str | None = None  # over `code`
    code: dict[str, str] | None = None  # module that the run computes with -> sha256 of its file
    precision: str = "float32"  # that `auto` became
    kernels: list[str] | None = None  # of which rooms of ramen.kernels operations are; none: plain torch
    tokenizer_hash: str | None = None
    budget: dict[str, float | None] | None = None
    lost_records: int | None = None  # lines of metrics that were gone when this part began


class Environment(Part):
    """environment.json, written at each start: `parts`, the last one being the present; or, of 0.1, one part itself."""

    sha256: str | None = None
    parts: list[Part] | None = None


class CheckpointMeta(_Record):
    """meta.json of a checkpoint."""

    step: int
    val_loss: float | None = None
    sha256: dict[str, str]  # file -> digest; format 1 had none


class MetricsRecord(BaseModel):
    """One line of metrics.jsonl: training figures since the line before; `val_loss` only where it was evaluated.

    `seconds` is training alone, without start-up, compilation, evaluation and checkpoints.
    """

    model_config = ConfigDict(frozen=True)

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
    peak_memory: int | None
    hyperparameters: dict[str, float]  # lr, momentum, auxiliary_lr ... as set for this step

    def as_line(self) -> dict[str, Any]:
        """The record as it is written: flat, hyperparameters beside the rest."""
        flat = self.model_dump()
        return flat | flat.pop("hyperparameters")
