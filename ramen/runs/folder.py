"""A run folder: the names of its files, and how each of them is read and written.

Reading: a file that is missing is empty; one that is damaged, or of a newer ramen, is a DataError that names it.
"""

import contextlib
import hashlib
import json
import logging
import math
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ramen.errors import DataError
from ramen.runs.atomic import read_bytes, read_whole, sha256_of, write_atomically
from ramen.runs.renamed import current_names

CONFIG, METRICS, SUMMARY, ENVIRONMENT = "config.yaml", "metrics.jsonl", "summary.json", "environment.json"
DIAGNOSTICS, EVALUATIONS, TOKENIZER = "diagnostics.jsonl", "evaluations.jsonl", "tokenizer.json"
COMMAND = "command.yaml"
LITTER = re.compile(  # files of processes that were killed while they wrote
    rf"\.({'|'.join(map(re.escape, (CONFIG, METRICS, SUMMARY, ENVIRONMENT, DIAGNOSTICS, TOKENIZER, COMMAND)))})\.[0-9a-f]{{8}}"
)
ENDED = ("finished", "diverged")  # statuses of a run with a result

log = logging.getLogger("ramen")


class RunFolder:
    """A run folder at `path`, which need not exist yet."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.tokenizer = self.path / TOKENIZER

    def config(self) -> dict[str, Any]:
        """The resolved config, with the names that components have today."""
        return current_names(read_whole(self.path / CONFIG, dict))

    def summary(self) -> dict[str, Any]:
        """The fields of `schema.Summary` that are there; empty before the end of the run."""
        from ramen.runs.schema import Summary  # pydantic takes longer to import than --help may

        return Summary.read(self.path / SUMMARY)

    def ending(self) -> dict[str, Any]:
        """The summary; empty before the end of the run, and where it is damaged or does not say how the run ended."""
        try:
            summary = self.summary()
        except DataError:
            return {}
        return summary if summary.get("status") else {}

    def parts(self, before: int | None = None) -> list[dict[str, Any]]:
        """Where the run ran, `schema.Part` by part: all, or those that began before a step."""
        from ramen.runs.schema import Environment

        content = Environment.read(self.path / ENVIRONMENT)
        parts = content.get("parts") or ([content] if content else [])
        return [part for part in parts if before is None or part.get("from_step", 0) < before]

    def environment(self) -> dict[str, Any]:
        """The last of the parts."""
        return next(reversed(self.parts()), {})

    def run_id(self) -> str:
        """The name of the run at a service, made at its first step; in 0.1 it was made of the folder's path."""
        return self.environment().get("run_id") or hashlib.sha256(os.fsencode(self.path.resolve())).hexdigest()[:16]

    def altered(self) -> dict[str, str]:
        """File -> what is wrong with it, for each that is not as the run wrote it."""
        from ramen.config.check import config_hash

        problems = {}
        for name in (ENVIRONMENT, SUMMARY):
            content = read_whole(self.path / name, dict)
            if {"sha256", "format"} & content.keys() and content.get("sha256") != _seal(content):
                problems[name] = "was changed after it was written"
        summary = self.summary()
        recorded = {part["config_hash"] for part in self.parts() if part.get("config_hash")}
        if not recorded and summary.get("status") in (*ENDED, "stopped"):  # of 0.1
            recorded = {summary.get("config_hash")} - {None}
        if recorded and (now := config_hash(read_whole(self.path / CONFIG, dict))) not in recorded:
            problems[CONFIG] = f"was changed after it was written, got hash {now}; recorded is {' or '.join(recorded)}"
        if summary.get("metrics_sha256") not in (None, self._sha256(METRICS)):
            problems[METRICS] = "was changed after the end of the run"
        return {name: f"{self.path / name}: {problem}" for name, problem in problems.items()}

    def refuse_altered(self, *names: str) -> None:
        """DataError when one of these files is not as the run wrote it."""
        if problems := [problem for name, problem in self.altered().items() if name in names]:
            raise DataError("; ".join(problems) + "; take it back, or train again")

    def written_hash(self) -> str | None:
        """Hash of the config; None where there is none, it was changed, or is of ramen 0.1."""
        try:
            self.refuse_altered(CONFIG, ENVIRONMENT)
            return self.environment().get("config_hash")
        except (DataError, TypeError):
            return None

    def command(self) -> list[str] | None:
        """The overrides that the run or sweep here was started with, a sweep's after -m; None if there is neither."""
        overrides = read_whole(self.path / COMMAND, list)
        if any(not isinstance(word, str) for word in overrides):
            raise DataError(f"{self.path / COMMAND}: is damaged, got {overrides!r:.80}; allowed is a list of words")
        return overrides if (self.path / COMMAND).is_file() else None

    def begin(self, config: dict[str, Any], part: dict[str, Any], resumed_step: int | None, records: int = 0) -> None:
        """Write what is known before the first step. Of a run that goes on at `resumed_step`, the parts and records up to it
        stay; there should be so many `records`."""
        earlier = [] if resumed_step is None else self.parts(before=resumed_step)
        lines = {name: self._until(name, resumed_step) for name in (METRICS, DIAGNOSTICS)}
        lost = max(0, records - len(lines[METRICS]))
        if lost:
            log.warning("%s: %d of %d records up to step %s are gone", self.path / METRICS, lost, records, resumed_step)
        started = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
        part = part | {"from_step": resumed_step or 0, "started": started, "lost_records": lost}
        for path in self.path.glob(".*"):
            if LITTER.fullmatch(path.name):
                path.unlink(missing_ok=True)
        # From here on the run has no end yet; what cannot begin keeps the one it had.
        aside = self.path / f".{SUMMARY}.00000000"
        with contextlib.suppress(OSError):
            (self.path / SUMMARY).replace(aside)
        try:
            for name, content in lines.items():
                if name == METRICS or (self.path / name).exists():
                    write_atomically(self.path / name, b"".join(line + b"\n" for line in content))
            self._write(ENVIRONMENT, {"parts": [*earlier, part]})
            write_atomically(self.path / CONFIG, yaml.safe_dump(config, sort_keys=False, allow_unicode=True).encode())
        except DataError:
            with contextlib.suppress(OSError):
                aside.replace(self.path / SUMMARY)
            raise
        aside.unlink(missing_ok=True)

    def record(self, line: Mapping[str, Any]) -> None:
        self.append(METRICS, line)

    def diagnose(self, line: Mapping[str, Any]) -> None:
        self.append(DIAGNOSTICS, line)

    def append(self, name: str, line: Mapping[str, Any]) -> None:
        """Add a line to the file `name`."""
        try:
            with (self.path / name).open("a") as file:
                file.write(json.dumps(_plain(line)) + "\n")
        except OSError as error:
            raise DataError(f"{self.path / name}: cannot be written, got {error.strerror}") from error

    def finish(self, summary: Mapping[str, Any]) -> None:
        self._write(SUMMARY, {**summary, "metrics_sha256": self._sha256(METRICS)})

    def remember(self, overrides: list[str]) -> None:
        """Make the words of a command that was accepted those that the next `resume=` repeats."""
        write_atomically(self.path / COMMAND, yaml.safe_dump(overrides, allow_unicode=True).encode())

    def _until(self, name: str, step: int | None) -> list[bytes]:
        """The sound lines up to a step."""
        lines = []
        content = read_bytes(self.path / name) if step is not None and (self.path / name).exists() else b""
        for line in content.splitlines():
            # The last line of a killed run may be cut, or not text.
            with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
                if json.loads(line)["step"] <= step:
                    lines.append(line)
        return lines

    def _sha256(self, name: str) -> str | None:
        try:
            return hashlib.sha256(read_bytes(self.path / name)).hexdigest()
        except (OSError, ValueError):
            return None

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        from ramen.runs.schema import FORMAT

        plain = _plain({**content, "format": FORMAT})
        write_atomically(self.path / name, (json.dumps(plain | {"sha256": _seal(plain)}, indent=1) + "\n").encode())


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no NaN or infinity: they are null."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in values.items()
    }


def _seal(content: Mapping[str, Any]) -> str:
    """Hash of a json object but for its seal."""
    return sha256_of({key: value for key, value in content.items() if key != "sha256"})


def run_hash(config_hash: str, budgets: list[dict[str, Any]]) -> str:
    """Name of the computation of a run: the hash of its config, or another one if its budget changed on the way."""
    if all(budget == budgets[0] for budget in budgets):
        return config_hash
    return hashlib.sha256(json.dumps([config_hash, *budgets]).encode()).hexdigest()[: len(config_hash)]
