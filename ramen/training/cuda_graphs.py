"""CUDA graphs of whole micro-batches: forward and backward pass launched as one, which a small model on a fast GPU waits for.

A graph reads its batch from, and adds its gradients to, memory of its own; there is one for every number of rows and every phase
of the run (attention windows, split embedding), recorded before the clock starts. Bit for bit what runs without graphs.
The optimizers' steps are captured apart (ramen.optimizer.cuda_graph).
Memory: the activations of the largest micro-batch, kept from step to step.
"""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ramen.errors import ConfigError

WARM_UPS = 3  # what libraries and compilers do at first calls must not be recorded


@dataclass
class _Recorded:
    graph: torch.cuda.CUDAGraph
    tokens: Tensor
    targets: Tensor
    share: Tensor
    loss: Tensor
    gradients: dict[torch.nn.Parameter, Tensor]


class GradientGraphs:
    """Records `run(tokens, targets, share) -> loss`, which leaves gradients at `parameters`, and replays it."""

    def __init__(
        self,
        run: Callable[[Tensor, Tensor, Tensor], Tensor],
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

    def begin(self) -> None:
        """Before the first micro-batch of a step: no gradients yet."""
        self._attach({})
        if self._gradients:
            torch._foreach_zero_(list(self._gradients.values()))

    def micro_batch(self, tokens: Tensor, targets: Tensor, share: Tensor) -> Tensor:
        """The summed loss of some rows; gradients times `share` are added."""
        key = (tokens.shape, self.phase())
        if key not in self._graphs:
            self._graphs[key] = self._record(tokens, targets, share)
        recorded = self._graphs[key]
        recorded.tokens.copy_(tokens)
        recorded.targets.copy_(targets)
        recorded.share.copy_(share)
        recorded.graph.replay()
        for parameter, gradient in recorded.gradients.items():
            parameter.grad = gradient
        return recorded.loss.clone()  # the next replay writes there

    def _record(self, tokens: Tensor, targets: Tensor, share: Tensor) -> _Recorded:
        """Record a graph; the gradients of the step so far stay as they are."""
        inputs = tokens.clone(), targets.clone(), share.clone()
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
            graph = torch.cuda.CUDAGraph()
            # Other threads may use the device meanwhile: batches are made ahead in pinned memory.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                loss = self.run(*inputs)
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
        return _Recorded(graph, *inputs, loss, gradients)

    def _attach(self, gradients: Mapping[torch.nn.Parameter, Tensor | None]) -> None:
        for parameter in self.parameters:
            parameter.grad = gradients.get(parameter)
