"""Batches on the device. For CUDA a thread makes them ahead in pinned memory, from where a copy does not make the loop wait.

On a CPU the batch is a thousandth of a step or less (docs/performance.md), and a thread would take its core.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ramen.data.batches import Batch, Batches
from ramen.data.prefetch import Prefetch


@dataclass(frozen=True)
class DeviceBatch:
    """tokens and targets (B, T) int64, how many targets count, and the number of documents in each row, if that is known."""

    tokens: Tensor
    targets: Tensor
    counted: int
    documents: tuple[int, ...] | None = None


class DeviceLoader(Prefetch[DeviceBatch]):
    """The batches of a run, on its device; `depth` are made ahead (auto: 2 for CUDA, 0 for a CPU)."""

    def __init__(self, batches: Batches, device: torch.device, depth: int | Literal["auto"]):
        self.device, self.pinned = device, device.type == "cuda"
        super().__init__(batches, self._on_host, 2 * self.pinned if depth == "auto" else depth)

    def _on_host(self, batch: Batch) -> DeviceBatch:
        tokens, targets = torch.from_numpy(batch.tokens), torch.from_numpy(batch.targets)
        if self.pinned:  # torch's allocator gives pinned memory out again only when copies from it are done
            with torch.cuda.device(self.device):  # a thread of its own begins at device 0
                tokens, targets = tokens.pin_memory(), targets.pin_memory()
        documents = 1 + (batch.tokens[:, 1:] == self._batches.bos).sum(
            axis=1
        )  # a row begins one, whatever it begins with
        return DeviceBatch(tokens, targets, batch.counted, tuple(documents.tolist()))

    def take(self, rows: int) -> DeviceBatch:
        """The next rows; the copy to the device is queued behind its work."""
        batch = super().take(rows)
        tokens, targets = (t.to(self.device, non_blocking=True) for t in (batch.tokens, batch.targets))
        return replace(batch, tokens=tokens, targets=targets)
