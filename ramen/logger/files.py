"""The run folder, always on. Everything a report reads is written here."""

from pathlib import Path
from typing import Any

from ramen.logger.base import Logger
from ramen.runs.folder import RunFolder


class FileLogger(RunFolder, Logger):
    """Writes each record as a line at once. Of a resumed run the `records` up to `resumed_step` stay, later ones go."""

    def __init__(self, path: Path, part: dict[str, Any], resumed_step: int | None, records: int = 0):
        super().__init__(path)
        self.part, self.resumed_step, self.records = part, resumed_step, records

    def start(self, folder: Path, config: dict[str, Any], facts: dict[str, Any]) -> None:
        self.begin(config, self.part, self.resumed_step, self.records)
