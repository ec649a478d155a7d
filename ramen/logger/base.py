"""The interface of loggers. A logger never reads back."""

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

    def finish(self, summary: dict[str, Any]) -> None:
        """The end of the run, whatever its status. Called once."""

    def remedy(self) -> str:
        """How to get at what a logger that failed has not sent."""
        return ""
