"""A logger that cannot cost a run: it works in a thread of its own.

A logger that raises or hangs is named once, and the run goes on without it. Records are queued and never waited for; only
start and finish are, and not for ever.
"""

import logging
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ramen.logger.base import Logger

log = logging.getLogger("ramen")
PATIENCE_SECONDS = 60.0
MOST_WAITING = 1000  # calls; a logger that is so far behind hangs


class Guarded(Logger):
    """Another logger, in a thread."""

    def __init__(self, logger: Logger, patience_seconds: float | None = None):
        self.logger, self.patience_seconds = logger, patience_seconds or PATIENCE_SECONDS
        self.off = False
        self._calls: queue.Queue[tuple[Callable[..., None], tuple[Any, ...], threading.Event]] = queue.Queue(
            MOST_WAITING
        )
        self._current = ""
        threading.Thread(target=self._work, name=f"logger {type(logger).__name__}", daemon=True).start()

    def start(self, folder: Path, config: dict[str, Any], facts: dict[str, Any]) -> None:
        self._call(self.logger.start, folder, config, facts, wait=True)

    def record(self, line: dict[str, Any]) -> None:
        self._call(self.logger.record, line)

    def diagnose(self, line: dict[str, Any]) -> None:
        self._call(self.logger.diagnose, line)

    def finish(self, summary: dict[str, Any]) -> None:
        self._call(self.logger.finish, summary, wait=True)

    def _call(self, method: Callable[..., None], *arguments: Any, wait: bool = False) -> None:
        if self.off:
            return
        done = threading.Event()
        try:
            self._calls.put_nowait((method, arguments, done))
            hangs = wait and not done.wait(self.patience_seconds)
        except queue.Full:
            hangs = True
        if hangs:
            self._switch_off(f"hangs in {self._current}")

    def _work(self) -> None:
        while self._current != "finish":
            method, arguments, done = self._calls.get()
            self._current = method.__name__
            try:
                if not self.off:
                    method(*arguments)
            except BaseException as error:  # a service may even exit
                self._switch_off(f"failed in {self._current}: {type(error).__name__}: {error}")
            done.set()  # when switched off, too: a caller that has just queued its call must not wait for nothing

    def _switch_off(self, problem: str) -> None:
        if not self.off:
            self.off = True
            log.warning(
                "%s %s; training goes on without it. %s", type(self.logger).__name__, problem, self.logger.remedy()
            )
