"""Signals that ask for a stop: the loop saves at the next step. A second Ctrl-C interrupts at once.

SIGTERM comes from a shutdown or a scheduler, SIGHUP from a closed terminal, SIGUSR1 from Slurm before its time limit.
"""

import signal
import threading
from types import FrameType
from typing import Any

STOP_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")  # as a summary names them


class StopSignal:
    """A context in which the first of these signals only sets `requested`, its name. Ignored ones (nohup) stay ignored."""

    def __init__(self) -> None:
        self.requested: str | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            for number in signal.Signals:
                if number.name in STOP_SIGNALS and signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = signal.Signals(number).name
