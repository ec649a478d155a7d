"""An optimizer whose launches are replayed as one CUDA graph.

A first step of its kind runs as it is, which stacks banks and sets libraries up; when the next is of that kind too it is recorded,
and later ones are one launch. What tells kinds apart is `begin` (see ramen.optimizer.base), where gradients lie in memory, which
graphs of the micro-batch keep in one place (ramen.training.graphs), and scheduled hyperparameters that are numbers. The others are
tensors (ramen.build.param_groups), so a graph reads what they hold when it is replayed. Bit for bit what runs without graphs.
Memory: the largest step's working copies of banks, kept from step to step.
"""

import logging
from collections.abc import Callable, Hashable
from typing import Protocol, runtime_checkable

import torch

log = logging.getLogger("ramen")
Replay = Callable[[], None]


@runtime_checkable
class Recordable(Protocol):
    """An optimizer in two parts: what Python does, and what the device does."""

    param_groups: list[dict[str, object]]

    def begin(self) -> Hashable: ...
    def launch(self) -> None: ...


def cuda_graph(launch: Callable[[], None]) -> Replay:
    """Record what `launch` does on the current CUDA device, without doing it. RuntimeError when that cannot be recorded."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # the loader's thread goes on pinning memory
        launch()
    return graph.replay


class Recorded:
    """Steps an optimizer by graphs made by `record`; one that cannot be recorded steps as it is, and says so.

    `numbers` are what a graph would hold for ever: a step is replayed only while they are what they were.
    """

    def __init__(
        self,
        optimizer: Recordable,
        numbers: Callable[[], tuple[float, ...]],
        record: Callable[[Callable[[], None]], Replay] = cuda_graph,
    ):
        self.optimizer, self.numbers, self.record = optimizer, numbers, record
        self._replays: dict[Hashable, Replay] = {}
        self._last: Hashable = None  # kind of the step before

    def step(self) -> None:
        """optimizer.step()."""
        kind = self.optimizer.begin(), self.numbers(), *self._gradients()
        if kind == self._last and kind not in self._replays:
            self._replays[kind] = self._recorded()
        self._last = kind
        self._replays.get(kind, self.optimizer.launch)()

    def _recorded(self) -> Replay:
        try:
            return self.record(self.optimizer.launch)
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            name, told = type(self.optimizer).__name__, str(error).partition("\n")[0]
            log.warning("trainer.cuda_graphs: %s's step cannot be recorded (%s) and is launched as it is", name, told)
            return self.optimizer.launch

    def _gradients(self) -> list[tuple[int, int]]:
        """Which parameters have a gradient, and where."""
        held = [p for group in self.optimizer.param_groups for p in group["params"]]  # type: ignore[attr-defined]
        return [(id(p), p.grad.data_ptr()) for p in held if p.grad is not None]
