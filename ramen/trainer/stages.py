"""The stages of a run: batch size, attention windows, tied or split embedding, and the rest of scalars after a change.

All follow from how far the run has come and from what a checkpoint holds, so a resumed run goes through the same stages.
Sources: batch and window schedules, split and freeze: modded-nanogpt.
Differs from the source: scalars rest for exactly the steps asked for, and the learning rate of the split head is the schedule's.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ramen.routing import Optimizers, role

Windows = tuple[int | None, int | None]
PARTS = 100  # of the run, looked at to find its stages


@dataclass(frozen=True)
class Stage:
    """What holds for a step: rows of its batch, the learning rate's factor for them, and figures for the record."""

    rows: int
    lr_factor: float
    told: dict[str, float]


class Stages:
    """Moves the model from stage to stage.

    `rows` and `windows` are functions of progress; lr_power: the learning rate goes with (batch / configured batch)^lr_power;
    freeze_steps: for so many steps after a change of batch or window, scalars keep still, their optimizer state too; `ahead`, of
    progress: the share of the losses on tokens after the next one.
    """

    def __init__(
        self,
        model: Any,
        optimizers: Optimizers,
        rows: Callable[[float], int],
        windows: Callable[[float], Windows],
        base_rows: int,
        lr_power: float | None,
        freeze_steps: int | None,
        ahead: Callable[[float], float],
    ):
        self.model, self.optimizers, self.rows, self.windows, self.ahead = model, optimizers, rows, windows, ahead
        self.base_rows, self.lr_power, self.freeze_steps = base_rows, lr_power or 0.0, freeze_steps or 0
        self.scalars: list[Tensor] = [p for p in model.parameters() if role(p) == "scalar"]
        self.last: list[Any] | None = None
        self.resting = 0

    def enter(self, progress: float) -> Stage:
        """The stage of the coming step, with the model brought into it; `progress` is what is behind."""
        rows, windows = self.rows(progress), self.windows(progress)
        if self.last is None:
            self.model.begin(windows)
        elif windows != self.model.windows:
            self.model.move_windows(windows)
        splits = getattr(self.model.embedding, "split_at", None)
        if splits is not None and progress >= splits and not self.model.embedding.is_split:
            self.split()
        now = [rows, *windows]
        self.resting = self.freeze_steps if self.last not in (None, now) else max(0, self.resting - 1)
        self.last = now
        names = ("long_window_tokens", "short_window_tokens")
        told: dict[str, float] = {name: w for name, w in zip(names, windows, strict=True) if w is not None}
        if self.model.ahead:
            told["ahead_share"] = self.ahead(progress)
            self.model.weigh_ahead(told["ahead_share"])
        if splits is not None:
            told["embedding_split"] = int(self.model.embedding.is_split)
        if self.freeze_steps:
            told["scalars_frozen"] = int(self.resting > 0)
        return Stage(rows, (rows / self.base_rows) ** self.lr_power, told)

    def split(self) -> None:
        """Part a tied embedding, optimizer state and all."""
        embedding = self.model.embedding
        embedding.split()
        self.optimizers.copy_state(embedding.weight, embedding.head_weight)

    def rest(self) -> None:
        """Drop the gradients of what does not move in this step; optimizers leave alone what has none."""
        if self.resting:
            for scalar in self.scalars:
                scalar.grad = None

    def key(self) -> Any:
        """What tells the model's graph in this stage from that in another, its batch apart."""
        return (
            self.model.windows,
            getattr(self.model.position, "gain", None),
            getattr(self.model.embedding, "is_split", None),
        )

    def each(self, progress: float) -> Iterator[int]:
        """The rows of every stage from `progress` on, with the model's graph as it will be there; as before at the end."""
        model, embedding = self.model, self.model.embedding
        before, position = model.windows, copy.deepcopy(model.position.state_dict())
        splits = getattr(embedding, "split_at", None)
        was_split = splits is not None and embedding.is_split
        seen = set()
        try:
            if self.last is None:
                model.begin(self.windows(progress))
            for part in range(PARTS + 1):
                at = max(progress, part / PARTS)
                model.move_windows(self.windows(at))  # along the way of the run, which a position may depend on
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
