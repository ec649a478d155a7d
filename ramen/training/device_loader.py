"""Batches on the device. For CUDA a thread prepares them ahead in pinned memory, from which a copy does not block the loop.

On a CPU a batch takes a thousandth of a step or less (docs/performance.md), and a thread would take its core.

A batch travels with the position behind it: `state_dict` is that of the batches taken, never of those prepared ahead. A take of
another size than the one before (a phase of a batch schedule) sends the thread back to that position. An error is raised by the
take that would have met it without the thread, so a run that ends before a damaged shard ends well.
"""

from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Literal

import torch

from ramen.data.batches import Batch, Batches

Prepared = tuple[Batch, dict[str, int], int]  # a batch, and the state and the epoch behind it


class DeviceLoader:
    """The batches of a run, on its device; `depth` are made ahead (auto: 2 for CUDA, 0 for a CPU; 0: no thread)."""

    def __init__(self, batches: Batches, device: torch.device, depth: int | Literal["auto"]):
        self._batches, self._device, self._pinned = batches, device, device.type == "cuda"
        self._depth = 2 * self._pinned if depth == "auto" else depth
        self._state, self.epoch = batches.state_dict(), batches.epoch  # behind what was taken
        self._rows = 0
        self._thread: ThreadPoolExecutor | None = None
        self._ahead: deque[Future[Prepared]] = deque()

    def take(self, rows: int) -> Batch:
        """The next rows; the copy to the device is queued behind its work. Raises what the thread raised for these rows."""
        if self._depth:
            if self._thread is None or rows != self._rows:
                self.close()
                self._batches.load_state_dict(self._state)
                self._rows, self._thread = rows, ThreadPoolExecutor(1, "batches")
                self._ahead.extend(self._thread.submit(self._prepare, rows) for _ in range(self._depth))
            prepared = self._ahead[0].result()  # an error stays the first: what is made behind it is not taken
            self._ahead.popleft()
            self._ahead.append(self._thread.submit(self._prepare, rows))
        else:
            prepared = self._prepare(rows)
        batch, self._state, self.epoch = prepared
        tokens, targets = (ids.to(self._device, non_blocking=True) for ids in (batch.tokens, batch.targets))
        return replace(batch, tokens=tokens, targets=targets)

    def state_dict(self) -> dict[str, int]:
        return self._state

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self.close()
        self._batches.load_state_dict(state)
        self._state, self.epoch = self._batches.state_dict(), self._batches.epoch

    def close(self) -> None:
        """End the thread; a later take goes on from where the taking was."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
            self._thread = None
            self._ahead.clear()

    def _prepare(self, rows: int) -> Prepared:
        batch = self._batches.take(rows)
        if self._pinned:  # torch's allocator gives pinned memory out again only when copies from it are done
            with torch.cuda.device(self._device):  # a thread of its own begins at device 0
                batch = replace(batch, tokens=batch.tokens.pin_memory(), targets=batch.targets.pin_memory())
        return batch, self._batches.state_dict(), self._batches.epoch
