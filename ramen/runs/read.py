"""One run folder as one record: what was asked for, how it ended, and its curve."""

import contextlib
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ramen.config.check import flatten
from ramen.errors import DataError
from ramen.runs.folder import METRICS, SUMMARY, RunFolder
from ramen.runs.metrics import Curve, number, read_metrics

Value = str | int | float | bool | None
STATUSES = ("finished", "stopped", "diverged", "failed", "unfinished")
OF_ONE_RUN = (  # what a run keeps when it goes on, or it is no run of one program on one machine
    "budget.steps", "budget.tokens", "budget.seconds", "code_hash", "device", "threads", "attention_backend", "kernels",
    "versions.torch",
)  # fmt: skip
_EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")  # YAML 1.1 reads 1e-3 as text


@dataclass(frozen=True)
class Run:
    """A run folder, read once. `config` is flat (dotted keys); `summary` holds the numbers of its summary."""

    folder: Path
    seed: int | None
    status: str  # one of STATUSES
    reason: str  # why it is not finished; empty if it is
    choices: dict[str, str]
    in_sweep: bool
    config: dict[str, Value]
    summary: dict[str, float]
    facts: dict[str, Value]  # all fields of environment and summary, flat
    data_hash: str | None
    commit: str | None
    device: str | None
    precision: str | None  # that `auto` became
    curve: Curve
    warnings: list[str] = field(default_factory=list)
    doubts: dict[str, str] = field(default_factory=dict)  # why its numbers may not be those of a fresh, unchanged run

    def value(self, key: str, default: Value = None) -> Value:
        """The chosen option of a config group, or the value of a dotted config key, of a mapping its text."""
        if key in self.choices or key in self.config or "." not in key:
            return self.choices.get(key, self.config.get(key, default))
        parts = [f"{k.removeprefix(f'{key}.')}: {v}" for k, v in self.config.items() if k.startswith(f"{key}.")]
        return f"{{{', '.join(parts)}}}" if parts else default

    def fact(self, name: str) -> str | None:
        """A field of the summary, or else of the environment, as text; dotted below a mapping."""
        return None if self.facts.get(name) is None else str(self.facts[name])

    def metric(self, name: str) -> float:
        return self.summary.get(name, math.nan)

    @property
    def place(self) -> str:
        """The folder, to be written down."""
        return _writable(str(self.folder))

    @property
    def pairing(self) -> int | str:
        """Key that pairs this run with runs of other methods: its seed, or (seed unknown) itself alone."""
        return self.seed if self.seed is not None else str(self.folder)


def read_run(folder: Path) -> Run:
    """Read one run folder. DataError if its config cannot be read."""
    files = RunFolder(folder)
    warnings: list[str] = []
    config = _with_rate({key: _canonical(value) for key, value in flatten(files.config()).items()})
    summary, environment = (_or_nothing(read, warnings) for read in (files.summary, files.environment))
    curve = read_metrics(folder / METRICS)
    if curve.bad_lines:
        warnings.append(f"{folder}: {curve.bad_lines} unreadable lines of {METRICS} ignored")
    numbers = {key: n for key, value in summary.items() if not math.isnan(n := number(value))}
    warnings += _disagreement(folder, numbers, curve)
    doubts: dict[str, str] = {}
    with contextlib.suppress(DataError):  # which is a warning already
        doubts = _doubts(files)
    status, reason = _status(summary, curve)
    seed = summary.get("seed", config.get("seed"))
    return Run(
        folder=folder,
        seed=seed if type(seed) is int and abs(seed) < 2**63 else None,
        status=status,
        reason=reason,
        choices={
            k: v for k, v in (summary.get("choices") or environment.get("choices") or {}).items() if v is not None
        },
        in_sweep=(summary or environment).get("job") is not None,
        config=config,
        summary=numbers,
        facts={key: _canonical(value) for key, value in flatten({**environment, **summary}).items()},
        data_hash=_text(summary.get("data_hash")),
        commit=_text(environment.get("git_commit")),
        device=_text(environment.get("device")),
        precision=_text(environment.get("precision")),
        curve=curve,
        warnings=warnings,
        doubts=doubts,
    )


def _with_rate(config: dict[str, Value]) -> dict[str, Value]:
    """optimizer.lr as the matrices get it: a grid of routing.matrix.lr_scale is a grid of learning rates."""
    lr, scale = config.get("optimizer.lr"), config.get("routing.matrix.lr_scale", 1)
    if (
        config.get("routing.matrix.to") == "optimizer"
        and isinstance(lr, int | float)
        and isinstance(scale, int | float)
    ):
        config |= {"optimizer.lr": _canonical(float(f"{lr * scale:.12g}")), "routing.matrix.lr_scale": 1}
    return config


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


def _or_nothing(read: Callable[[], dict[str, Any]], warnings: list[str]) -> dict[str, Any]:
    try:
        return read()
    except DataError as error:
        warnings.append(f"{error}; treated as missing")
        return {}


def _canonical(value: Any) -> Value:
    """1.0 and 1 are one value, `1e-3` is a number, a list is its text."""
    if isinstance(value, str):
        return _canonical(float(value)) if _EXPONENT.fullmatch(value) else _writable(value)
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    return json.dumps(value, default=str)


def _status(summary: dict[str, Any], curve: Curve) -> tuple[str, str]:
    last = f"last record at step {int(curve.step[-1])}" if len(curve.step) else "no record"
    if not summary:
        return "unfinished", f"no {SUMMARY}: still running or killed; {last}"
    status, error = summary.get("status"), _text(summary.get("error"))
    if status == "finished":
        return "finished", ""
    if status in STATUSES:
        return str(status), error or f"no reason recorded; {last}"
    return "unfinished", f"{SUMMARY} has status {status!r}, not one of {', '.join(STATUSES[:4])}; {last}"


def _disagreement(folder: Path, numbers: dict[str, float], curve: Curve) -> list[str]:
    steps, losses = curve.series("step", "val_loss")
    final = numbers.get("final_val_loss", math.nan)
    if not len(steps) or steps[-1] != numbers.get("steps") or not math.isfinite(final):
        return []
    if abs(final - losses[-1]) <= 1e-3 * abs(losses[-1]):
        return []
    return [f"{folder}: {SUMMARY} says final_val_loss {final:.4f}, {METRICS} ends with {losses[-1]:.4f}"]


def _text(value: Any) -> str | None:
    return _writable(" ".join(str(value).split())) if value not in (None, "") else None


def _writable(text: str) -> str:
    """As UTF-8 can have it: the name of a folder may be of another encoding, and an error may quote it."""
    return text.encode(errors="backslashreplace").decode()
