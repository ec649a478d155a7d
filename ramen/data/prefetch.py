"""Batches made ahead by a thread, so that a device need not wait for one.

The thread reads the same rows in the same order, and a batch travels with the position behind it: the state told is that of what
was taken, never of what was made ahead. A take of another size than the one before (a stage of a batch schedule) sends the
thread back to that position. An error is raised by the take that would have met it without the thread, so a run that ends before
a damaged shard ends well. Neither the depth nor the thread's pace changes anything that is taken.
"""

from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from ramen.data.batches import Batch, Batches

Made = TypeVar("Made")


class Prefetch(Generic[Made]):
    """`finish(batches.take(rows))`, up to `depth` of them ahead; both calls are the thread's. depth 0: no thread."""

    def __init__(self, batches: Batches, finish: Callable[[Batch], Made], depth: int):
        self._batches, self._finish, self._depth = batches, finish, depth
        self._state = batches.state_dict()  # behind what was taken
        self._rows = 0
        self._thread: ThreadPoolExecutor | None = None
        self._ahead: deque[Future[tuple[Made, dict[str, int]]]] = deque()

    @property
    def epoch(self) -> int:
        """The epoch of the next token to be taken."""
        return self._state["epoch"]

    def take(self, rows: int) -> Made:
        """The next rows, finished. Raises what the thread raised when it made them."""
        if not self._depth:
            made, self._state = self._make(rows)
            return made
        if self._thread is None or rows != self._rows:
            self.close()
            self._batches.load_state_dict(self._state)
            self._rows, self._thread = rows, ThreadPoolExecutor(1, "prefetch")
            self._ahead.extend(self._thread.submit(self._make, rows) for _ in range(self._depth))
        made, self._state = self._ahead[0].result()  # an error stays the first: what is made behind it is not taken
        self._ahead.popleft()
        self._ahead.append(self._thread.submit(self._make, rows))
        return made

    def state_dict(self) -> dict[str, int]:
        """The position behind what was taken."""
        return self._state

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continue exactly where `state` was taken."""
        self.close()
        self._batches.load_state_dict(state)
        self._state = self._batches.state_dict()

    def close(self) -> None:
        """End the thread; a later take goes on from where the taking was."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
            self._thread = None
            self._ahead.clear()

    def _make(self, rows: int) -> tuple[Made, dict[str, int]]:
        batch = self._batches.take(rows)
        return self._finish(batch), self._batches.state_dict()
