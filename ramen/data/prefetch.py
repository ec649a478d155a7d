"""Batches made ahead by a thread, so that a device need not wait for one.

The thread reads the same rows in the same order, and a batch travels with the position behind it: the state told is that of what
was taken, never of what was made ahead. A take of another size than the one before (a stage of a batch schedule) sends the
thread back to that position. An error is raised by the take that would have met it without the thread, so a run that ends before
a damaged shard ends well. Neither the depth nor the thread's pace changes anything that is taken.
"""

import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from ramen.data.batches import Batch

Made = TypeVar("Made")


class Rows(Protocol):
    """What is read ahead: ramen.data.batches.Batches."""

    @property
    def epoch(self) -> int: ...
    def take(self, rows: int) -> Batch: ...
    def state_dict(self) -> dict[str, int]: ...
    def load_state_dict(self, state: Mapping[str, int]) -> None: ...


@dataclass(frozen=True)
class _Ahead(Generic[Made]):
    value: Made
    state: dict[str, int]
    epoch: int


class Prefetch(Generic[Made]):
    """`finish(batches.take(rows))`, up to `depth` of them ahead; both calls are the thread's. depth 0: no thread."""

    def __init__(self, batches: Rows, finish: Callable[[Batch], Made], depth: int):
        self._batches, self._finish, self._depth = batches, finish, depth
        self._state, self._epoch = batches.state_dict(), batches.epoch  # behind what was taken
        self._rows = 0
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._ready: deque[_Ahead[Made] | BaseException] = deque()
        self._changed = threading.Condition()

    @property
    def epoch(self) -> int:
        """The epoch of the next token to be taken."""
        return self._epoch

    def take(self, rows: int) -> Made:
        """The next rows, finished. Raises what the thread raised when it made them."""
        if not self._depth:
            made = self._make(rows)
        else:
            if self._thread is None or rows != self._rows:
                self._start(rows)
            with self._changed:
                self._changed.wait_for(lambda: self._ready)
                first = self._ready[0]
                if isinstance(first, BaseException):
                    raise first  # it stays: there is nothing behind it
                made = first
                self._ready.popleft()
                self._changed.notify_all()
        self._state, self._epoch = made.state, made.epoch
        return made.value

    def state_dict(self) -> dict[str, int]:
        """The position behind what was taken."""
        return self._state

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continue exactly where `state` was taken."""
        self.close()
        self._batches.load_state_dict(state)
        self._state, self._epoch = self._batches.state_dict(), self._batches.epoch

    def close(self) -> None:
        """End the thread; a later take goes on from where the taking was."""
        if self._thread is None:
            return
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join()
        self._thread = None
        self._ready.clear()

    def _start(self, rows: int) -> None:
        self.close()
        self._batches.load_state_dict(self._state)
        self._rows, self._stopping = rows, False
        self._thread = threading.Thread(target=self._work, name="prefetch", daemon=True)
        self._thread.start()

    def _make(self, rows: int) -> _Ahead[Made]:
        batch = self._batches.take(rows)
        return _Ahead(self._finish(batch), self._batches.state_dict(), self._batches.epoch)

    def _work(self) -> None:
        ended = False
        while not ended:
            made: _Ahead[Made] | BaseException
            try:
                made = self._make(self._rows)
            except BaseException as error:  # whatever it is, it belongs to whoever takes
                made, ended = error, True
            with self._changed:
                self._ready.append(made)
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._stopping or len(self._ready) < self._depth)
                ended = ended or self._stopping
