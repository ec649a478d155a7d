"""The run folder, always on. Everything a report reads is written here."""

from pathlib import Path
from typing import Any

from ramen.logger.base import Logger
from ramen.runs.folder import RunFolder


class FileLogger(RunFolder, Logger):
    """Writes each record as a line at once. A resumed run's records up to `resumed_step` stay, later ones go."""

    def __init__(self, path: Path, environment: dict[str, Any], resumed_step: int | None):
        super().__init__(path)
        self.now, self.resumed_step = environment, resumed_step

    def start(self, folder: Path, config: dict[str, Any], facts: dict[str, Any]) -> None:
        self.begin(config, self.now, self.resumed_step)
