"""An optimizer whose launches are replayed as one CUDA graph.

A first step of its kind runs as it is, which stacks banks and sets libraries up; when the next is of that kind too it is captured,
and later ones are one launch. A step's kind is what `begin` returns (see ramen.optimizer.base), where gradients lie in memory,
which graphs of the micro-batch keep in one place (ramen.training.graphs), and the scheduled hyperparameters that are numbers. The
others are tensors, so a graph reads their values when it is replayed. Bit for bit the same as without graphs.
Memory: the largest step's working copies of banks, kept from step to step.
"""

import logging
from collections.abc import Callable, Hashable

import torch

from ramen.optimizer.base import Optimizer

log = logging.getLogger("ramen")
Replay = Callable[[], None]


def capture(launch: Callable[[], None]) -> Replay:
    """Record what `launch` does on the current CUDA device, without doing it. RuntimeError when that cannot be recorded."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # the loader's thread goes on pinning memory
        launch()
    return graph.replay


class GraphedStep:
    """Steps an optimizer by graphs that `capture` makes; one that cannot be captured steps as it is, and says so.

    `numbers` are values that a graph would freeze: a step is replayed only while they are the same.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        numbers: Callable[[], tuple[float, ...]],
        capture: Callable[[Callable[[], None]], Replay] = capture,
    ):
        self.optimizer, self.numbers, self.capture = optimizer, numbers, capture
        self._replays: dict[Hashable, Replay] = {}
        self._last: Hashable = None  # kind of the step before

    def step(self) -> None:
        """optimizer.step()."""
        kind = self.optimizer.begin(), self.numbers(), *self._gradients()
        if kind == self._last and kind not in self._replays:
            self._replays[kind] = self._captured()
        self._last = kind
        self._replays.get(kind, self.optimizer.launch)()

    def _captured(self) -> Replay:
        try:
            return self.capture(self.optimizer.launch)
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            name, reason = type(self.optimizer).__name__, str(error).partition("\n")[0]
            log.warning("trainer.cuda_graphs: %s's step cannot be captured (%s) and is launched as it is", name, reason)
            return self.optimizer.launch

    def _gradients(self) -> list[tuple[int, int]]:
        """Which parameters have a gradient, and where."""
        params = [p for group in self.optimizer.param_groups for p in group["params"]]
        return [(id(p), p.grad.data_ptr()) for p in params if p.grad is not None]
