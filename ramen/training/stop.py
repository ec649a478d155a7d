"""Signals that ask for a stop: the loop saves at the next step. A second Ctrl-C interrupts at once.

SIGTERM comes from a shutdown or a scheduler, SIGHUP from a closed terminal, SIGUSR1 from Slurm before its time limit.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")  # as a summary names them


@contextmanager
def catch_stop_signals() -> Iterator[list[str]]:
    """Within, these signals only add their name to the list. Ignored ones (nohup) stay ignored."""
    received: list[str] = []

    def receive(number: int, frame: FrameType | None) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(signal.Signals(number).name)

    is_main = threading.current_thread() is threading.main_thread()  # elsewhere Python allows no handlers
    caught = [s for s in signal.Signals if is_main and s.name in STOP_SIGNALS and signal.getsignal(s) != signal.SIG_IGN]
    before = {number: signal.signal(number, receive) for number in caught}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
