"""A training step's launches replayed as CUDA graphs, which a small model on a fast GPU waits for. Bit for bit what runs without.

GradientGraphs: a micro-batch, forward and backward pass, is one launch. A graph reads its batch from, and adds its gradients to,
memory of its own; there is one for every number of rows and every phase of the run (attention windows, split embedding), recorded
before the clock starts. Memory: the activations of the largest micro-batch, kept from step to step.

GraphedStep: an optimizer's step is one launch. A first step of its kind runs as it is, which stacks banks and sets libraries up;
when the next is of that kind too it is captured, and later ones are replayed. A step's kind is what `begin` returns (see
ramen.optimizer.base), where gradients lie in memory, which GradientGraphs keep in one place, and the hyperparameters that are
numbers. The others are tensors, so a graph reads their values when it is replayed.
Memory: the largest step's working copies of banks, kept from step to step.
"""

import logging
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ramen.errors import ConfigError

log = logging.getLogger("ramen")
Replay = Callable[[], None]
WARM_UPS = 3  # what libraries and compilers do at first calls must not be recorded


def capture(launch: Callable[[], object], pool: Any = None) -> Replay:
    """Record what `launch` does on the current CUDA device, without doing it. RuntimeError when that cannot be recorded."""
    graph = torch.cuda.CUDAGraph()
    # Other threads may use the device meanwhile: batches are made ahead in pinned memory.
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        launch()
    return graph.replay


@dataclass
class _Recorded:
    replay: Replay
    inputs: tuple[Tensor, ...]
    loss: Tensor
    gradients: dict[torch.nn.Parameter, Tensor]


class GradientGraphs:
    """Records `run(tokens, targets, share) -> loss`, which leaves gradients at `parameters`, and replays it.

    `phase` gives the part of a graph's key that is not its inputs' shape. ConfigError without a GPU.
    """

    def __init__(
        self,
        run: Callable[..., Tensor],
        parameters: list[torch.nn.Parameter],
        phase: Callable[[], Hashable],
        device: torch.device,
    ):
        if device.type != "cuda":
            raise ConfigError(f"trainer.cuda_graphs: needs a GPU, got device {device}; allowed is false")
        self.run, self.parameters, self.phase, self.device = run, parameters, phase, device
        self._graphs: dict[Hashable, _Recorded] = {}
        self._gradients: dict[torch.nn.Parameter, Tensor] = {}  # the same memory for all graphs
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, tokens: Tensor, targets: Tensor, share: Tensor, documents: int | None = None) -> Tensor:
        """The summed loss of some rows, of any number of documents; gradients times `share` are added."""
        if self._gradients and all(parameter.grad is None for parameter in self.parameters):
            torch._foreach_zero_(list(self._gradients.values()))  # the first micro-batch of a step
        inputs = tokens, targets, share
        key = (tokens.shape, self.phase())
        if key not in self._graphs:
            self._graphs[key] = self._record(*(each.clone() for each in inputs))
        recorded = self._graphs[key]
        for memory, value in zip(recorded.inputs, inputs, strict=True):
            memory.copy_(value)
        recorded.replay()
        for parameter, gradient in recorded.gradients.items():
            parameter.grad = gradient
        return recorded.loss.clone()  # the next replay writes there

    def _record(self, *inputs: Tensor) -> _Recorded:
        """Record a graph; the gradients of the step so far stay as they are."""
        before = {parameter: gradient.clone() for parameter, gradient in self._gradients.items()}
        attached = {parameter: parameter.grad for parameter in self.parameters}
        try:
            side = torch.cuda.Stream(self.device)
            side.wait_stream(torch.cuda.current_stream(self.device))
            with torch.cuda.stream(side):
                for _ in range(WARM_UPS):
                    self._attach({})
                    self.run(*inputs)
            torch.cuda.current_stream(self.device).wait_stream(side)
            used = [parameter for parameter in self.parameters if parameter.grad is not None]
            for parameter in used:
                self._gradients.setdefault(parameter, torch.zeros_like(parameter))
            gradients = {parameter: self._gradients[parameter] for parameter in used}
            self._attach(gradients)
            losses: list[Tensor] = []
            replay = capture(lambda: losses.append(self.run(*inputs)), self._pool)
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            reason = str(error).partition("\n")[0]
            raise ConfigError(
                f"trainer.cuda_graphs: this model cannot be recorded ({reason}), got true; allowed are false, or a model that "
                "reads nothing back: attention.backend=sdpa, or flex with compile=on"
            ) from error
        finally:
            self._attach(attached)
        for parameter, gradient in self._gradients.items():
            gradient.copy_(before[parameter]) if parameter in before else gradient.zero_()
        return _Recorded(replay, inputs, losses[0], gradients)

    def _attach(self, gradients: Mapping[torch.nn.Parameter, Tensor | None]) -> None:
        for parameter in self.parameters:
            parameter.grad = gradients.get(parameter)


class GraphedStep:
    """Steps a ramen.optimizer.base.Optimizer by graphs that `capture` makes; warns of one that cannot be captured.

    A step is replayed only while the numbers in its groups, which a graph would freeze, are the same.
    """

    def __init__(self, optimizer: Any, capture: Callable[[Callable[[], None]], Replay] = capture):
        self.optimizer, self.capture = optimizer, capture
        self._replays: dict[Hashable, Replay] = {}
        self._last: Hashable = None  # kind of the step before

    def __call__(self) -> None:
        """Do what optimizer.step() does."""
        kind = self.optimizer.begin(), *self._numbers(), *self._gradients()
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

    def _numbers(self) -> list[tuple[str, float]]:
        """Hyperparameters that are numbers; the method's own counts are part of what `begin` returns, where they matter."""
        pairs = [pair for group in self.optimizer.param_groups for pair in group.items()]
        counts = self.optimizer.group_state
        return [(key, value) for key, value in pairs if key not in counts and isinstance(value, int | float)]

    def _gradients(self) -> list[tuple[int, int]]:
        """Parameters that have a gradient, and where it lies."""
        params = [p for group in self.optimizer.param_groups for p in group["params"]]
        return [(id(p), p.grad.data_ptr()) for p in params if p.grad is not None]
