"""The interface of loggers. A logger never reads back."""

import contextlib
from pathlib import Path
from typing import Any


class Logger:
    """Does nothing; a logger overrides what it needs."""

    def start(self, folder: Path, config: dict[str, Any], facts: dict[str, Any]) -> None:
        """`config` is the resolved config, `facts` what is known before the first step (choices, seed, parameters ...)."""

    def record(self, line: dict[str, Any]) -> None:
        """One record, flat."""

    def diagnose(self, line: dict[str, Any]) -> None:
        """One line of diagnostics, flat: step and `<cut>/<where>/<measure>`."""

    def advance(self, progress: float) -> None:
        """Called after every step with the part of the budget that is used up."""

    def finish(self, summary: dict[str, Any]) -> None:
        """The end of the run, whatever its status. Called once."""

    def remedy(self) -> str:
        """Advice for the data that a logger has not sent when it failed."""
        return ""


class Loggers(Logger):
    """Several loggers as one; the first may fail a run."""

    def __init__(self, *loggers: Logger):
        self.loggers = loggers

    def start(self, folder: Path, config: dict[str, Any], facts: dict[str, Any]) -> None:
        for logger in self.loggers:
            logger.start(folder, config, facts)

    def record(self, line: dict[str, Any]) -> None:
        for logger in self.loggers:
            logger.record(line)

    def diagnose(self, line: dict[str, Any]) -> None:
        for logger in self.loggers:
            logger.diagnose(line)

    def advance(self, progress: float) -> None:
        for logger in self.loggers:
            logger.advance(progress)

    def finish(self, summary: dict[str, Any]) -> None:
        with contextlib.ExitStack() as endings:  # each is called, in order, even when the disk of the first is full
            for logger in reversed(self.loggers):
                endings.callback(logger.finish, summary)
