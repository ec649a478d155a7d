"""The run folder, always on: config.yaml, metrics.jsonl, environment.json, summary.json. Everything a report reads is here.

diagnostics.jsonl appears with the first line of diagnostics.
"""

import contextlib
import json
import math
from pathlib import Path
from typing import Any

import yaml

from ramen.errors import DataError
from ramen.logger.base import Logger
from ramen.runs.atomic import write_atomically
from ramen.runs.folder import CONFIG, DIAGNOSTICS, ENVIRONMENT, METRICS, SUMMARY


class RunFolder(Logger):
    """Writes each record as a line, flushed; the summary appears whole or not at all.

    `keep_steps`: a resumed run's records up to this step stay, later ones (written after the checkpoint) go.
    """

    def __init__(self, environment: dict[str, Any], keep_steps: int | None = None):
        self.environment, self.keep_steps = environment, keep_steps
        self.folder = Path()

    def start(self, folder: Path, config: dict[str, Any], facts: dict[str, Any]) -> None:
        self.folder = folder
        with contextlib.suppress(OSError):
            (folder / SUMMARY).unlink(missing_ok=True)  # of what was before: from here on the run has no end yet
        write_atomically(folder / CONFIG, yaml.safe_dump(config, sort_keys=False, allow_unicode=True).encode())
        write_atomically(folder / ENVIRONMENT, json.dumps(self.environment, indent=1).encode())
        for path in (folder / METRICS, folder / DIAGNOSTICS):
            kept = [] if self.keep_steps is None or not path.exists() else _until(path, self.keep_steps)
            if path.name == METRICS or path.exists():
                write_atomically(path, b"".join(line + b"\n" for line in kept))

    def record(self, line: dict[str, Any]) -> None:
        self._append(METRICS, line)

    def diagnose(self, line: dict[str, Any]) -> None:
        self._append(DIAGNOSTICS, line)

    def _append(self, name: str, line: dict[str, Any]) -> None:
        path = self.folder / name
        try:
            with path.open("a") as file:
                file.write(json.dumps(_plain(line)) + "\n")
        except OSError as error:
            raise DataError(f"{path}: cannot be written: {error.strerror}") from error

    def finish(self, summary: dict[str, Any]) -> None:
        write_atomically(self.folder / SUMMARY, (json.dumps(_plain(summary), indent=1) + "\n").encode())


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN or infinity: they are null."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in values.items()
    }


def _until(metrics: Path, step: int) -> list[bytes]:
    kept = []
    for line in metrics.read_bytes().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError, RecursionError):
            continue  # the last line of a killed run may be cut, or not text
    return kept
