"""Memory of a training step at its peak, worked out without running it.

The step is run on fake tensors, which have shapes and types but no storage, and every storage is counted while it lives:
parameters, gradients, optimizer state, what the forward pass keeps, and what comes and goes in between. Not counted: what a
kernel takes inside itself, and what is lost between blocks; on a CPU that is `RESIDENT_SHARE` of all and `RESIDENT_BYTES`, as
measured (docs/performance.md), and on CUDA not part of the peak that torch reports.
Cost: the dispatch of one step, a few tenths of a second.
"""

import weakref
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ramen.optimizer.optimizers import Optimizers

RESIDENT_SHARE, RESIDENT_BYTES = 0.3, 50_000_000
Sizes = dict[str, int]


class Accounting(TorchDispatchMode):
    """Counts the bytes of storages that operations inside it make, while they live; `peak` is the most at a time."""

    def __init__(self, held: Sequence[Tensor] = ()) -> None:
        super().__init__()
        self.held = self.peak = 0
        self._known: dict[int, tuple[int, Any]] = {}
        for tensor in held:
            self.hold(tensor)

    def hold(self, tensor: Tensor) -> None:
        """Count a tensor's storage, unless it is counted already."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()
        self._known[key] = size, weakref.ref(storage, lambda _: self._release(key))
        self.held += size
        self.peak = max(self.peak, self.held)

    def _release(self, key: int) -> None:
        self.held -= self._known.pop(key)[0]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor):
                self.hold(leaf)
        return made


def step_memory(
    model: nn.Module, optimizers: Optimizers, rows: int, length: int, precision: torch.dtype, *, accumulates: bool
) -> Sizes:
    """Bytes at the peak of a step of (rows, length) tokens of a fake model: parameters, gradients, optimizer state, and the rest.

    `accumulates`: a step has several micro-batches, so that gradients are there while the next ones are formed.
    """
    parameters = list(model.parameters())
    own = [*parameters, *model.buffers()]
    tokens = torch.zeros((rows, length), dtype=torch.long)
    accounting = Accounting(own)
    with accounting:
        for _ in range(1 + accumulates):
            with torch.autocast("cpu", precision, enabled=precision != torch.float32):
                loss = model(tokens, tokens)
            loss.backward()
            del loss
        differentiating = accounting.peak
        gradients = _bytes([p.grad for p in parameters if p.grad is not None])
        before, accounting.peak = accounting.held, 0
        # A foreign method may read its numbers, and there are none: what it has allocated until then is counted.
        with suppress(DataDependentOutputException, DynamicOutputShapeException):
            optimizers.step()
    state = max(0, accounting.held - before)
    sizes = {"parameters": _bytes(own), "gradients": gradients, "optimizer": state}
    return sizes | {"activations": max(differentiating + state, accounting.peak) - sum(sizes.values())}


def peak_bytes(sizes: Sizes, device: torch.device) -> int:
    """What ramen.device.peak_memory will say of tensors of these sizes."""
    total = sum(sizes.values())
    return int(total * (1 + RESIDENT_SHARE)) + RESIDENT_BYTES if device.type == "cpu" else total


def _bytes(tensors: Sequence[Tensor]) -> int:
    """Of the storages behind tensors, each once."""
    return sum({t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}.values())
