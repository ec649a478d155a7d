"""The interface of loggers, several as one, and one that cannot cost a run. A logger never reads back."""

import contextlib
import logging
import queue
import threading
from pathlib import Path
from typing import Any

log = logging.getLogger("ramen")
PATIENCE_SECONDS = 60.0
MOST_WAITING = 1000  # calls; a logger that is so far behind hangs


class Logger:
    """Does nothing; a logger overrides the calls that it needs, or `forward`, which gets all others."""

    def forward(self, call: str, *arguments: Any) -> None:
        """A call by its name."""

    def start(self, folder: Path, config: dict[str, Any], facts: dict[str, Any]) -> None:
        """`config` is the resolved config; `facts` are known before the first step (choices, seed, parameters ...)."""
        self.forward("start", folder, config, facts)

    def record(self, line: dict[str, Any]) -> None:
        """One record, flat."""
        self.forward("record", line)

    def diagnose(self, line: dict[str, Any]) -> None:
        """One line of diagnostics, flat: step and `<cut>/<where>/<measure>`."""
        self.forward("diagnose", line)

    def advance(self, progress: float) -> None:
        """Called after every step with the part of the budget that is used, in [0, 1]."""
        self.forward("advance", progress)

    def finish(self, summary: dict[str, Any]) -> None:
        """The end of the run, whatever its status. Called once."""
        self.forward("finish", summary)

    def remedy(self) -> str:
        """Advice on how to send the data that was not sent when this logger failed."""
        return ""


class Loggers(Logger):
    """Several loggers as one; the first may fail a run."""

    def __init__(self, *loggers: Logger):
        self.loggers = loggers

    def forward(self, call: str, *arguments: Any) -> None:
        for logger in self.loggers:
            getattr(logger, call)(*arguments)

    def finish(self, summary: dict[str, Any]) -> None:
        with contextlib.ExitStack() as endings:  # calls each, in order, even when the disk of the first is full
            for logger in reversed(self.loggers):
                endings.callback(logger.finish, summary)


class Guarded(Logger):
    """Another logger, in a thread of its own.

    If it raises or hangs, a warning says so once, and the run goes on without it. Records are queued and never waited for;
    only start and finish are, and not for ever.
    """

    def __init__(self, logger: Logger, patience_seconds: float | None = None):
        self.logger, self.patience_seconds = logger, patience_seconds or PATIENCE_SECONDS
        self.off = False
        self._calls: queue.Queue[Any] = queue.Queue(MOST_WAITING)  # a name, its arguments, an Event to set when done
        self._current = ""
        threading.Thread(target=self._work, name=f"logger {type(logger).__name__}", daemon=True).start()

    def forward(self, call: str, *arguments: Any) -> None:
        if self.off or call == "advance":
            return
        done = threading.Event()
        try:
            self._calls.put_nowait((call, arguments, done))
            hangs = call in ("start", "finish") and not done.wait(self.patience_seconds)
        except queue.Full:
            hangs = True
        if hangs:
            self._switch_off(f"hangs in {self._current}")

    def _work(self) -> None:
        while self._current != "finish":
            self._current, arguments, done = self._calls.get()
            try:
                if not self.off:
                    getattr(self.logger, self._current)(*arguments)
            except BaseException as error:  # a service may even exit
                self._switch_off(f"failed in {self._current}: {type(error).__name__}: {error}")
            done.set()  # when switched off, too: a caller that has just queued its call must not wait for nothing

    def _switch_off(self, problem: str) -> None:
        if not self.off:
            self.off = True
            name, remedy = type(self.logger).__name__, self.logger.remedy()
            log.warning("%s %s; training goes on without it. %s", name, problem, remedy)
