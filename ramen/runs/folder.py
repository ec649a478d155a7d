"""A run folder: the names of its files, and how each of them is read and written.

Reading: a file that is missing is empty; one that is damaged, or of a newer ramen, is a DataError that names it.
"""

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ramen.errors import DataError, told
from ramen.runs.atomic import read_bytes, read_json, read_yaml, write_atomically
from ramen.runs.renamed import current_names

CONFIG, METRICS, SUMMARY, ENVIRONMENT = "config.yaml", "metrics.jsonl", "summary.json", "environment.json"
DIAGNOSTICS, EVALUATIONS, TOKENIZER = "diagnostics.jsonl", "evaluations.jsonl", "tokenizer.json"
COMMAND = "command.yaml"
ENDED = ("finished", "diverged")  # statuses of a run with a result


class RunFolder:
    """A run folder at `path`, which need not exist yet."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.tokenizer = self.path / TOKENIZER

    def config(self) -> dict[str, Any]:
        """The resolved config, with the names that components have today."""
        return current_names(self._mapping(CONFIG))

    def summary(self) -> dict[str, Any]:
        """The fields of `schema.Summary` that are there; empty before the end of the run."""
        from ramen.runs.schema import Summary  # here: pydantic takes longer than --help may

        return self._valid(SUMMARY, Summary.valid)

    def environment(self) -> dict[str, Any]:
        """The fields of `schema.Environment` that are there."""
        from ramen.runs.schema import Environment

        return self._valid(ENVIRONMENT, Environment.valid)

    def run_id(self) -> str:
        """The name of the run at a service, made at its first step; in 0.1 it was made of the folder's path."""
        return self.environment().get("run_id") or hashlib.sha256(os.fsencode(self.path.resolve())).hexdigest()[:16]

    def command(self) -> list[str] | None:
        """The overrides that the run or sweep here was started with, a sweep's after -m; None if there is neither."""
        path = self.path / COMMAND
        if not path.is_file():
            return None
        try:
            words = read_yaml(path)
            if not (isinstance(words, list) and all(isinstance(word, str) for word in words)):
                raise TypeError("no list of words")
        except (OSError, ValueError, TypeError) as error:
            raise DataError(f"{path}: is damaged, got {told(error)}; allowed is a list of words") from error
        return words

    def begin(self, config: dict[str, Any], environment: dict[str, Any], keep_steps: int | None) -> None:
        """Write what is known before the first step. Records up to `keep_steps` stay, all others go; so does the old summary."""
        with contextlib.suppress(OSError):
            (self.path / SUMMARY).unlink(missing_ok=True)  # from here on the run has no end yet
        write_atomically(self.path / CONFIG, yaml.safe_dump(config, sort_keys=False, allow_unicode=True).encode())
        self._write(ENVIRONMENT, environment)
        for path in (self.path / METRICS, self.path / DIAGNOSTICS):
            kept = [] if keep_steps is None or not path.exists() else _until(path, keep_steps)
            if path.name == METRICS or path.exists():
                write_atomically(path, b"".join(line + b"\n" for line in kept))

    def record(self, line: Mapping[str, Any]) -> None:
        """Add a line to the metrics."""
        self._append(METRICS, line)

    def diagnose(self, line: Mapping[str, Any]) -> None:
        """Add a line to the diagnostics."""
        self._append(DIAGNOSTICS, line)

    def evaluated(self, line: Mapping[str, Any]) -> None:
        """Add a line to the evaluations."""
        self._append(EVALUATIONS, line)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write the summary."""
        self._write(SUMMARY, summary)

    def remember(self, words: list[str]) -> None:
        """Make the words of a command that was accepted those that the next `resume=` repeats."""
        write_atomically(self.path / COMMAND, yaml.safe_dump(words, allow_unicode=True).encode())

    def _mapping(self, name: str | Path) -> dict[str, Any]:
        path = self.path / name
        try:
            content = read_json(path) if path.suffix == ".json" else read_yaml(path)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise DataError(f"{path}: cannot be read, got {error.strerror}") from error
        except ValueError as error:
            raise DataError(f"{path}: is damaged, got {error}") from error
        if not isinstance(content, dict):
            raise DataError(f"{path}: is damaged, got {type(content).__name__}; allowed is a mapping")
        return content

    def _valid(self, name: str, valid: Any) -> dict[str, Any]:
        try:
            return valid(self._mapping(name))
        except ValueError as error:
            raise DataError(f"{self.path / name}: {error}") from error

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        write_atomically(self.path / name, (json.dumps(_plain(content), indent=1) + "\n").encode())

    def _append(self, name: str, line: Mapping[str, Any]) -> None:
        path = self.path / name
        try:
            with path.open("a") as file:
                file.write(json.dumps(_plain(line)) + "\n")
        except OSError as error:
            raise DataError(f"{path}: cannot be written, got {error.strerror}") from error


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no NaN or infinity: they are null."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in values.items()
    }


def _until(metrics: Path, step: int) -> list[bytes]:
    kept = []
    for line in read_bytes(metrics).splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError, RecursionError):
            continue  # the last line of a killed run may be cut, or not text
    return kept
