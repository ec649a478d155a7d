"""The stages of a run: batch size, attention windows, tied or split embedding, and the rest of scalars after a change.

All follow from how far the run has come and from what a checkpoint holds, so a resumed run goes through the same stages.
Sources: batch and window schedules, split and freeze: modded-nanogpt.
Differs from the source: scalars rest for exactly the steps asked for, and the learning rate of the split head is the schedule's.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ramen.nn.parameter import role
from ramen.training.config import TrainerConfig
from ramen.training.setup import TrainingSetup

POINTS = [part / 100 for part in range(101)]  # of progress, where schedules are looked at before a run


@dataclass(frozen=True)
class Phase:
    """What holds for a step: rows of its batch, the learning rate's factor for them, and figures for the record."""

    rows: int
    lr_factor: float
    told: dict[str, float]


class RunPhases:
    """Moves the model of a job from stage to stage."""

    def __init__(self, job: TrainingSetup, plan: TrainerConfig):
        self.job, self.plan = job, plan
        self.model: Any = job.model
        self.freeze_steps = plan.freeze_scalar_steps or 0
        self.scalars: list[Tensor] = [p for p in job.model.parameters() if role(p) == "scalar"]
        self.last: list[Any] | None = None
        self.resting = 0

    def rows(self, progress: float) -> int:
        """Of a batch."""
        return self.plan.rows(self.job.batch_schedule(progress))

    def enter(self, progress: float) -> Phase:
        """The stage of the coming step, with the model brought into it; `progress` is what is behind."""
        rows, windows = self.rows(progress), self.job.windows(progress)
        if self.last is None:
            self.model.begin(windows)
        elif windows != self.model.windows:
            self.model.move_windows(windows)
        splits = self.model.embedding.split_at
        if splits is not None and progress >= splits and not self.model.embedding.is_split:
            self.split()
        now = [rows, *windows]
        self.resting = self.freeze_steps if self.last not in (None, now) else max(0, self.resting - 1)
        self.last = now
        names = ("long_window_tokens", "short_window_tokens")
        told: dict[str, float] = {name: w for name, w in zip(names, windows, strict=True) if w is not None}
        if self.model.mtp_weights:
            told["mtp_share"] = self.job.mtp_share(progress)
            self.model.set_mtp_share(told["mtp_share"])
        if splits is not None:
            told["embedding_split"] = int(self.model.embedding.is_split)
        if self.freeze_steps:
            told["scalars_frozen"] = int(self.resting > 0)
        return Phase(rows, (rows / self.plan.rows(1.0)) ** (self.plan.batch_lr_power or 0.0), told)

    def split(self) -> None:
        """Part a tied embedding, optimizer state and all."""
        self.job.optimizers.copy_state(*self.model.embedding.split())

    def rest(self) -> None:
        """Drop the gradients of what does not move in this step; optimizers leave alone what has none."""
        if self.resting:
            for scalar in self.scalars:
                scalar.grad = None

    def key(self) -> Any:
        """What tells the model's graph in this stage from that in another, its batch apart."""
        return self.model.windows, self.model.position.gain, self.model.embedding.is_split

    def each(self, progress: float) -> Iterator[int]:
        """The rows of every stage from `progress` on, with the model's graph as it will be there; as before at the end."""
        model, embedding = self.model, self.model.embedding
        before, position = model.windows, copy.deepcopy(model.position.state_dict())
        splits, was_split = embedding.split_at, embedding.is_split
        seen = set()
        try:
            if self.last is None:
                model.begin(self.job.windows(progress))
            for at in [progress, *(point for point in POINTS if point > progress)]:
                model.move_windows(self.job.windows(at))  # along the way of the run, which a position may depend on
                if splits is not None:
                    embedding.is_split = was_split or at >= splits
                key = self.rows(at), self.key()
                if key not in seen:
                    seen.add(key)
                    yield key[0]
        finally:
            model.set_windows(before)
            model.position.load_state_dict(position)
            if splits is not None:
                embedding.is_split = was_split

    def state_dict(self) -> dict[str, Any]:
        return {"last": self.last, "resting": self.resting}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.last, self.resting = state["last"], state["resting"]
