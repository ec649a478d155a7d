"""The objects of a training run."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ramen.data.batches import Batch, Batches
from ramen.device import PeakMemory
from ramen.logger.base import Logger
from ramen.nn.gpt import Windows
from ramen.optimizer.optimizers import Curve, Optimizers
from ramen.training.compilation import CompileMode
from ramen.training.diagnostics import Diagnostics


@dataclass(frozen=True)
class RunSchedules:
    """Functions of progress; hyperparameters of optimizers have their own."""

    lr: Curve  # multiplies the learning rates
    batch: Curve  # multiplies the batch
    windows: Callable[[float], Windows]  # tokens that long and short layers see
    mtp_share: Curve  # multiplies the weights of losses on tokens after the next one
    points: list[float]  # values of progress that meet every batch and every pair of windows, in order


@dataclass
class TrainingSetup:
    """Everything that a Trainer works with; ramen.build fills it."""

    model: nn.Module
    optimizers: Optimizers
    schedules: RunSchedules
    batches: Batches
    validation: Batch
    bytes_per_token: float
    device: torch.device
    memory: PeakMemory
    precision: torch.dtype
    compile: CompileMode
    matrix_flops: float  # training FLOPs a token without attention
    folder: Path
    identity: dict[str, Any]  # config keys and hashes that a checkpoint must share to be resumed
    logger: Logger
    diagnostics: Diagnostics | None
