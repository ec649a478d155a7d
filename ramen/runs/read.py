"""Find run folders at any depth, and read each as one record: what was asked for, how it ended, and its curve.

Tolerant of damage, never inventive: a line of metrics.jsonl counts only if it is a JSON object with a whole step number, a
field only if it is a JSON number. Lines are decoded one by one: joined text would let two half lines pass for one record.
"""

import contextlib
import json
import math
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ramen.config.check import flatten
from ramen.errors import DataError, RamenError, printable
from ramen.runs.atomic import read_bytes
from ramen.runs.folder import CONFIG, METRICS, SUMMARY, RunFolder

Value = str | int | float | bool | None
STATUSES = ("finished", "stopped", "diverged", "failed", "unfinished")
NEVER_RUNS = {"checkpoint", "checkpoints", "wandb"}  # large, or full of foreign files named like ours
OF_ONE_RUN = (  # what a run keeps when it goes on, or it is no run of one program on one machine
    "budget.steps", "budget.tokens", "budget.seconds", "code_hash", "device", "threads", "attention_backend", "kernels",
    "versions.torch",
)  # fmt: skip
_EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")  # YAML 1.1 reads 1e-3 as text
MOST_LINES = 1000
_NO_EVALUATION = re.compile(r'"val_loss": ?null')
COLUMNS = ["step", "tokens", "seconds", "train_loss", "val_loss"]  # of training; losses in nats a token


@dataclass(frozen=True)
class Run:
    """A run folder, read once. `config` is flat (dotted keys); `summary` holds the numbers of its summary."""

    folder: Path
    seed: int | None
    status: str  # one of STATUSES
    reason: str  # why it is not finished; empty if it is
    choices: dict[str, str]
    config: dict[str, Value]
    summary: dict[str, float]
    facts: dict[str, str]  # all known fields of summary and environment, flat, as text
    curve: pd.DataFrame  # COLUMNS, by increasing step; NaN where a field is absent
    warnings: list[str] = field(default_factory=list)
    doubts: dict[str, str] = field(default_factory=dict)  # why its numbers may not be those of a fresh, unchanged run

    def value(self, key: str, default: Value = None) -> Value:
        """The chosen option of a config group, or the value of a dotted config key, of a mapping its text."""
        if key in self.choices or key in self.config or "." not in key:
            return self.choices.get(key, self.config.get(key, default))
        parts = [f"{k.removeprefix(f'{key}.')}: {v}" for k, v in self.config.items() if k.startswith(f"{key}.")]
        return f"{{{', '.join(parts)}}}" if parts else default

    def metric(self, name: str) -> float:
        return self.summary.get(name, math.nan)

    @property
    def pairing(self) -> int | str:
        """Key that pairs this run with runs of other methods: its seed, or (seed unknown) itself alone."""
        return self.seed if self.seed is not None else str(self.folder)


def read_runs(folders: Iterable[Path]) -> tuple[list[Run], list[str]]:
    """The runs below `folders`, each once and sorted, and warnings on what only resembles a run or is damaged.

    DataError if one of the folders does not exist, or if no run can be read.
    """
    folders = list(folders)
    places: dict[Path, Path] = {}
    warnings: list[str] = []
    for top in folders:
        if not top.is_dir():
            raise DataError(f"{top}: no such folder; give run folders, or folders that hold runs at any depth")
        before = len(places)
        unreadable: list[OSError] = []
        for path, names, files in os.walk(top, onerror=unreadable.append):
            names[:] = sorted(name for name in names if name not in NEVER_RUNS and not name.startswith("."))
            folder = Path(path)
            if CONFIG in files and (METRICS in files or SUMMARY in files):
                places.setdefault(folder.resolve(), folder)
            elif CONFIG in files:
                warnings.append(f"{folder}: skipped, has {CONFIG} but neither {METRICS} nor {SUMMARY}")
            elif METRICS in files:
                warnings.append(f"{folder}: skipped, has {METRICS} but no {CONFIG}")
        warnings += [f"{error.filename}: skipped, {error.strerror}" for error in unreadable]
        if len(places) == before and len(folders) > 1:
            warnings.append(f"{top}: holds no run that is not already counted")
    runs = []
    for folder in sorted(places.values()):
        try:
            runs.append(read_run(folder))
        except (RamenError, OSError, ValueError) as error:
            warnings.append(f"{folder}: skipped, {error}")
    if not runs:
        tops = ", ".join(map(str, folders)) or "no folder"
        problem = f"{tops}: {'no readable run' if places else 'no runs found'}"
        problem += f"; a run is a folder with {CONFIG} and {METRICS} or {SUMMARY}"
        raise DataError("\n  ".join([problem, *warnings[:10]]))
    return runs, [*warnings, *(line for run in runs for line in run.warnings)]


def read_run(folder: Path) -> Run:
    """Read one run folder. DataError if its config cannot be read."""
    files = RunFolder(folder)
    warnings: list[str] = []

    def tolerant(read: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        try:
            return read()
        except DataError as error:
            warnings.append(f"{error}; treated as missing")
            return {}

    config = {key: _canonical(value) for key, value in flatten(files.config()).items()}
    lr, scale = config.get("optimizer.lr"), number(config.get("routing.matrix.lr_scale", 1))
    if config.get("routing.matrix.to") == "optimizer" and math.isfinite(number(lr) * scale):
        # As the matrices get it: a grid of routing.matrix.lr_scale is a grid of learning rates.
        config |= {"optimizer.lr": _canonical(float(f"{number(lr) * scale:.12g}")), "routing.matrix.lr_scale": 1}
    summary, environment = tolerant(files.summary), tolerant(files.environment)
    curve, bad_lines = read_metrics(folder / METRICS)
    if bad_lines:
        warnings.append(f"{folder}: {bad_lines} unreadable lines of {METRICS} ignored")
    numbers = {key: n for key, value in summary.items() if not math.isnan(n := number(value))}
    steps, losses = series(curve, "step", "val_loss")
    final = numbers.get("final_val_loss", math.nan)
    if len(steps) and steps[-1] == numbers.get("steps") and abs(final - losses[-1]) > 1e-3 * abs(losses[-1]):
        warnings.append(f"{folder}: {SUMMARY} says final_val_loss {final:.4f}, {METRICS} ends with {losses[-1]:.4f}")
    doubts: dict[str, str] = {}
    with contextlib.suppress(DataError):  # which is a warning already
        doubts = _doubts(files)
    choices = summary.get("choices") or environment.get("choices") or {}
    status, reason = _status(summary, curve)
    seed = summary.get("seed", config.get("seed"))
    return Run(
        folder=folder,
        seed=seed if type(seed) is int and abs(seed) < 2**63 else None,
        status=status,
        reason=reason,
        choices={kind: option for kind, option in choices.items() if option is not None},
        config=config,
        summary=numbers,
        facts={k: printable(v) for k, v in flatten({**environment, **summary}).items() if v is not None},
        curve=curve,
        warnings=warnings,
        doubts=doubts,
    )


def _doubts(files: RunFolder) -> dict[str, str]:
    """Short name -> sentence."""
    doubts = {}
    if altered := files.altered():
        doubts["changed files"] = "; ".join(altered.values())
    parts = [flatten(part) for part in files.parts()]
    for key in OF_ONE_RUN:
        values = dict.fromkeys(str(part[key]) for part in parts if key in part)
        if len(values) > 1:
            doubts[f"{key} changed"] = f"{files.path}: {key} changed when the run went on, from {' to '.join(values)}"
    if lost := sum(part.get("lost_records") or 0 for part in parts):
        doubts["lost records"] = f"{files.path}: {lost} records of metrics were gone when the run went on"
    return doubts


def _canonical(value: Any) -> Value:
    """1.0 and 1 are one value, `1e-3` is a number, a list is its text."""
    if isinstance(value, str):
        return _canonical(float(value)) if _EXPONENT.fullmatch(value) else printable(value)
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    return json.dumps(value, default=str)


def _status(summary: dict[str, Any], curve: pd.DataFrame) -> tuple[str, str]:
    last = f"last record at step {int(curve['step'].iloc[-1])}" if len(curve) else "no record"
    if not summary:
        return "unfinished", f"no {SUMMARY}: still running or killed; {last}"
    if (status := summary.get("status")) not in STATUSES:
        return "unfinished", f"{SUMMARY} has status {status!r}, not one of {', '.join(STATUSES[:4])}; {last}"
    reason = " ".join(printable(summary.get("error") or "").split()) or f"no reason recorded; {last}"
    return status, "" if status == "finished" else reason


def read_metrics(path: Path) -> tuple[pd.DataFrame, int]:
    """Read `path` as a curve, empty if the file is missing, and count unreadable lines but for a half-written last one.

    Records after a resume replace those of the abandoned attempt. OSError; ValueError for what is no ordinary file.
    """
    content = read_bytes(path) if path.exists() else b""
    lines = content.decode("utf-8", errors="replace").split("\n")
    half_written = lines.pop()  # what follows the last newline; empty in a sound file
    lines = [line for line in lines if line.strip()]
    if len(lines) > MOST_LINES:  # every evaluation, the last line, and as many training records as a curve can use
        every, last = 2 * len(lines) // MOST_LINES, len(lines) - 1
        lines = [line for i, line in enumerate(lines) if i % every == 0 or i == last or not _NO_EVALUATION.search(line)]
    records = [record for line in (*lines, half_written) if (record := _record(line))]
    bad_lines = len(lines) + bool(_record(half_written)) - len(records)
    numbers = [[number(record.get(name)) for name in COLUMNS] for record in records]
    curve = pd.DataFrame(numbers, columns=COLUMNS, dtype=float)
    # What a resume goes back behind is of the abandoned attempt; training and evaluation of a step may be two lines.
    curve = curve[curve["step"] <= curve["step"][::-1].cummin()[::-1]]
    return curve.groupby("step", as_index=False).last(), bad_lines


def series(curve: pd.DataFrame, x: str, y: str) -> tuple[np.ndarray, np.ndarray]:
    """The points of a curve where both are finite; none if x does not increase (a clock that was set back)."""
    xs, ys = curve[x].to_numpy(), curve[y].to_numpy()
    finite = np.isfinite(xs) & np.isfinite(ys)
    xs, ys = xs[finite], ys[finite]
    return (xs, ys) if np.all(np.diff(xs) > 0) else (xs[:0], ys[:0])


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
