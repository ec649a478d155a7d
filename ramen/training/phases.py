"""The phases of a run: batch size, attention windows, tied or split embedding, and the freezing of scalars after a change.

All follow from what has been trained and from what a checkpoint holds, so a resumed run goes through the same phases.
Sources: batch and window schedules, split and freeze: modded-nanogpt.
Differs from the source: scalars are frozen for exactly the steps asked for; the learning rate of the split head is the schedule's.
"""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ramen.nn.gpt import Windows
from ramen.nn.parameter import named_roles
from ramen.optimizer.optimizers import Curve, Optimizers
from ramen.training.config import TrainerConfig


@dataclass(frozen=True)
class RunSchedules:
    """Functions of progress; hyperparameters of optimizers have their own."""

    lr: Curve  # multiplies the learning rates
    batch: Curve  # multiplies the batch
    windows: Callable[[float], Windows]  # tokens that long and short layers see
    mtp_share: Curve  # multiplies the weights of losses on tokens after the next one
    points: list[float]  # values of progress that meet every batch and every pair of windows, in order


class RunPhases:
    """Moves the model of a run from phase to phase."""

    def __init__(self, model: Any, optimizers: Optimizers, schedules: RunSchedules, config: TrainerConfig):
        self.model, self.optimizers, self.schedules, self.config = model, optimizers, schedules, config
        self.scalars: list[Tensor] = [p for _, p, role in named_roles(model) if role == "scalar"]
        self.last: list[Any] | None = None  # rows and windows of the step before
        self.frozen_steps = 0  # for so many steps to come, this one included, scalars stay as they are

    def start_phase(self, behind: float) -> tuple[int, dict[str, float]]:
        """Rows of the coming step and figures for its record, with the model brought into its phase.

        `behind` is the part of the run that was trained.
        """
        rows, windows, embedding = self._rows(behind), self.schedules.windows(behind), self.model.embedding
        if self.last is None:
            self.model.begin(windows)
        elif windows != self.model.windows:
            self.model.move_windows(windows)
        if embedding.split_at is not None and behind >= embedding.split_at and not embedding.is_split:
            self.optimizers.copy_state(*embedding.split())
        freeze, now = self.config.freeze_scalar_steps or 0, [rows, *windows]
        self.frozen_steps = freeze if self.last not in (None, now) else max(0, self.frozen_steps - 1)
        self.last = now
        lengths = zip(("long_window_tokens", "short_window_tokens"), windows, strict=True)
        figures: dict[str, float] = {name: window for name, window in lengths if window is not None}
        if embedding.split_at is not None:
            figures["embedding_split"] = int(embedding.is_split)
        if freeze:
            figures["scalars_frozen"] = int(self.frozen_steps > 0)
        return rows, figures

    def freeze_scalars(self) -> None:
        """Drop the gradients of scalars that are frozen in this step; optimizers leave alone what has none."""
        if self.frozen_steps:
            for scalar in self.scalars:
                scalar.grad = None

    def graph_key(self) -> Any:
        """Key of the model's graph in this phase, except the number of rows."""
        return self.model.windows, self.model.position.gain, self.model.embedding.is_split

    def all_phases(self, behind: float) -> Iterator[int]:
        """The rows of every phase from here on, with the model's graph as it will be there; as before at the end."""
        model, embedding = self.model, self.model.embedding
        windows, position, was_split = model.windows, copy.deepcopy(model.position.state_dict()), embedding.is_split
        split_at = math.inf if embedding.split_at is None else embedding.split_at
        seen = set()
        try:
            if self.last is None:
                model.begin(self.schedules.windows(behind))
            later = [point for point in (*self.schedules.points, split_at) if behind < point < math.inf]
            for point in sorted({behind, *later}):
                model.move_windows(self.schedules.windows(point))  # in the run's order, which a position may depend on
                embedding.is_split = was_split or point >= split_at
                key = self._rows(point), self.graph_key()
                if key not in seen:
                    seen.add(key)
                    yield key[0]
        finally:
            model.set_windows(windows)
            model.position.load_state_dict(position)
            embedding.is_split = was_split

    def _rows(self, behind: float) -> int:
        return self.config.rows(self.schedules.batch(behind))

    def state_dict(self) -> dict[str, Any]:
        return {"last": self.last, "frozen_steps": self.frozen_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.last, self.frozen_steps = state["last"], state["frozen_steps"]
