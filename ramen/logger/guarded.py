"""A logger that cannot cost a run: called in a thread of its own, by a caller whose patience ends.

What it raises, and that it hangs, is told once; the run goes on without it. A record is handed over and never waited for.
Only start and finish are waited for, as long as the patience lasts.
"""

import logging
import queue
import threading
import time
from pathlib import Path
from typing import Any

from ramen.logger.base import Logger

log = logging.getLogger("ramen")
PATIENCE_SECONDS = 60.0


class Guarded(Logger):
    """Another logger, in a thread."""

    def __init__(self, logger: Logger, patience_seconds: float | None = None):
        self.logger, self.patience_seconds = logger, patience_seconds or PATIENCE_SECONDS
        self.off = False
        self._calls: queue.SimpleQueue[tuple[str, tuple[Any, ...], threading.Event]] = queue.SimpleQueue()
        self._doing = ""
        self._busy_since: float | None = None
        threading.Thread(target=self._work, name=f"logger {type(logger).__name__}", daemon=True).start()

    def start(self, folder: Path, config: dict[str, Any], facts: dict[str, Any]) -> None:
        self._call("start", folder, config, facts, wait=True)

    def record(self, line: dict[str, Any]) -> None:
        self._call("record", line)

    def diagnose(self, line: dict[str, Any]) -> None:
        self._call("diagnose", line)

    def finish(self, summary: dict[str, Any]) -> None:
        self._call("finish", summary, wait=True)

    def _call(self, method: str, *arguments: Any, wait: bool = False) -> None:
        since = self._busy_since
        if since is not None and time.monotonic() - since > self.patience_seconds:
            self._switch_off(f"hangs in {self._doing} since {time.monotonic() - since:.0f} s")
        if self.off:
            return
        done = threading.Event()
        self._calls.put((method, arguments, done))
        if wait and not done.wait(self.patience_seconds):
            self._switch_off(f"hangs in {self._doing or method}, waited {self.patience_seconds:.0f} s")

    def _work(self) -> None:
        while True:
            method, arguments, done = self._calls.get()
            if not self.off:
                self._doing, self._busy_since = method, time.monotonic()
                try:
                    getattr(self.logger, method)(*arguments)
                except BaseException as error:  # a service may even exit
                    self._switch_off(f"failed in {method}: {type(error).__name__}: {error}")
                self._busy_since = None
            done.set()
            if method == "finish":
                return

    def _switch_off(self, why: str) -> None:
        if not self.off:
            self.off = True
            log.warning("%s %s; training goes on without it", type(self.logger).__name__, why)
