"""What a run is made of, where it is, and how it can end: the nouns of the training loop."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from ramen.data.batches import Batch, Batches
from ramen.nn.gpt import Windows
from ramen.optimizer.optimizers import Optimizers
from ramen.runs.schema import MetricsRecord
from ramen.training.compilation import CompileMode
from ramen.training.diagnostics import Diagnostics

Status = Literal["finished", "stopped", "diverged"]


@dataclass
class TrainingSetup:
    """Everything a run is made of; the composition root (ramen.build.run) fills it."""

    model: nn.Module
    optimizers: Optimizers
    lr_schedule: Callable[[float], float]
    batch_schedule: Callable[[float], float]
    windows: Callable[[float], Windows]
    mtp_share: Callable[[float], float]  # the share of the losses on tokens after the next one
    batches: Batches
    validation: Batch
    bytes_per_token: float
    device: torch.device
    precision: torch.dtype
    compile: CompileMode
    flops_per_token: float
    folder: Path
    identity: dict[str, Any]  # config keys and hashes that a checkpoint must share to be resumed
    record: Callable[[MetricsRecord], None]
    advance: Callable[[float], None]
    diagnostics: Diagnostics | None


@dataclass
class Progress:
    """Where a run is: saved in every checkpoint."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    evaluation_seconds: float = 0.0
    compile_seconds: float = 0.0
    skipped_steps: int = 0  # whose loss or gradient was not finite, under trainer.nonfinite=skip
    train_loss: float | None = None  # of the last record
    val_loss: float | None = None  # of the last evaluation
    evaluated_step: int = 0
    best_val_loss: float = math.inf
    first_loss: float | None = None  # of the first step that counted
    counted: int = 0  # targets since the last record
    recorded_tokens: int = 0
    recorded_seconds: float = 0.0
