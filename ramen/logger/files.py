"""The run folder, always on. Everything a report reads is written here."""

from pathlib import Path
from typing import Any

from ramen.logger.base import Logger
from ramen.runs.folder import RunFolder


class FileLogger(Logger):
    """Writes each record as a line at once.

    `keep_steps`: a resumed run's records up to this step stay, later ones (written after the checkpoint) go.
    """

    def __init__(self, environment: dict[str, Any], keep_steps: int | None = None):
        self.environment, self.keep_steps = environment, keep_steps
        self.folder = RunFolder(".")

    def start(self, folder: Path, config: dict[str, Any], facts: dict[str, Any]) -> None:
        self.folder = RunFolder(folder)
        self.folder.begin(config, self.environment, self.keep_steps)

    def record(self, line: dict[str, Any]) -> None:
        self.folder.record(line)

    def diagnose(self, line: dict[str, Any]) -> None:
        self.folder.diagnose(line)

    def finish(self, summary: dict[str, Any]) -> None:
        self.folder.finish(summary)
