"""metrics.jsonl as arrays: tolerant of damage, never inventive.

A line counts only if it is a JSON object with a whole step number; a field counts only if it is a JSON number. Lines
are decoded one by one: joined text would let two half lines pass for one record.
"""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ramen.runs.atomic import read_bytes

MOST_LINES = 1000
_NO_EVALUATION = re.compile(r'"val_loss": ?null')
FIELDS = ("tokens", "seconds", "train_loss", "val_loss")


@dataclass(frozen=True)
class Curve:
    """Records by increasing step, NaN where a field is absent; seconds of training; losses in nats a token."""

    step: np.ndarray
    tokens: np.ndarray
    seconds: np.ndarray
    train_loss: np.ndarray
    val_loss: np.ndarray
    bad_lines: int = 0  # unreadable lines, a half-written last one not counted

    def series(self, x: str, y: str) -> tuple[np.ndarray, np.ndarray]:
        """The points (x, y) where both are finite; none if x does not increase (a clock that was set back)."""
        xs, ys = getattr(self, x), getattr(self, y)
        finite = np.isfinite(xs) & np.isfinite(ys)
        xs, ys = xs[finite], ys[finite]
        return (xs, ys) if np.all(np.diff(xs) > 0) else (xs[:0], ys[:0])


def read_metrics(path: Path) -> Curve:
    """Read `path`; a missing file is an empty curve. Records after a resume replace those of the abandoned attempt.

    OSError; ValueError for what is no ordinary file.
    """
    content = read_bytes(path) if path.exists() else b""
    lines = content.decode("utf-8", errors="replace").split("\n")
    half_written = lines.pop()  # what follows the last newline; empty in a sound file
    lines = [line for line in lines if line.strip()]
    if len(lines) > MOST_LINES:  # every evaluation, the last line, and as many training records as a curve can use
        every, last = 2 * len(lines) // MOST_LINES, len(lines) - 1
        lines = [line for i, line in enumerate(lines) if i % every == 0 or i == last or not _NO_EVALUATION.search(line)]
    records = [record for line in lines if (record := _record(line))]
    bad_lines = len(lines) - len(records)
    if unended := _record(half_written):
        records.append(unended)
    columns = ["step", *FIELDS]
    numbers = [[number(record.get(name)) for name in columns] for record in records]
    table = pd.DataFrame(numbers, columns=columns, dtype=float)
    # What a resume goes back behind is of the abandoned attempt; training and evaluation of a step may be two lines.
    steps = table["step"]
    table = table[steps <= steps[::-1].cummin()[::-1]].groupby("step").last()
    return Curve(table.index.to_numpy(), **{name: table[name].to_numpy() for name in FIELDS}, bad_lines=bad_lines)


def number(value: Any) -> float:
    """A JSON or YAML number as float; NaN for everything else (text, booleans, null, infinite, too large)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value) if math.isfinite(value) else math.nan
    except OverflowError:
        return math.nan


def _record(line: str) -> dict[str, Any] | None:
    if "\r" in line.rstrip("\r"):  # a blank to JSON; in a digit's place it makes another number
        return None
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if type(record) is not dict or type(record.get("step")) is not int or not 0 <= record["step"] < 2**53:
        return None
    return record
