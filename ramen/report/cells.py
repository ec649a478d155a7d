"""Numbers and tables as the reader sees them: text cells for the page and the terminal."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

MOST_ROWS = 60


@dataclass(frozen=True)
class TextTable:
    """Header, rows of text, and how many rows were left off for length."""

    header: list[str]
    rows: list[list[str]]
    left_off: int = 0


def ranking_text(ranking: pd.DataFrame, metric: str) -> TextTable:
    header = [
        "",
        "method",
        "setting",
        f"{metric} (mean ± sd)",
        "n",
        "difference [95 % interval]",
        "p",
        "p (Holm)",
        "verdict",
    ]
    rows = [
        [
            str(r.rank) if r.n else "-",
            str(r.method),
            str(r.setting),
            _mean_sd(r.mean, r.sd) if r.n else _why_empty(r),
            str(r.n),
            _interval(r.difference, r.low, r.high),
            p_text(r.p),
            p_text(r.p_holm),
            f"{r.verdict}{f' ({r.test})' if r.test == 'Welch' else ''}",
        ]
        for r in records(ranking)
    ]
    return _cut(header, rows)


def cost_text(ranking: pd.DataFrame) -> TextTable:
    header = [
        "method",
        "tokens/s",
        "training time",
        "peak memory",
        "parameters",
        "finished",
        "diverged",
        "failed",
        "other",
    ]
    rows = [
        [
            str(r.method),
            large(r.tokens_per_second),
            duration(r.train_seconds),
            memory(r.peak_memory),
            large(r.parameters),
            *(str(n) for n in (r.finished, r.diverged, r.failed, r.stopped + r.unfinished)),
        ]
        for r in records(ranking)
    ]
    return _cut(header, rows)


def targets_text(targets: pd.DataFrame) -> TextTable:
    header = ["method", "reached by", "tokens", "speed-up in tokens", "seconds", "speed-up in seconds"]
    rows = [
        [
            str(r.method),
            f"{r.reached} of {r.seeds} seeds" if r.reached else f"never ({r.seeds} seeds)",
            large(r.tokens),
            _speedup(r.speedup_tokens, r.speedup_tokens_low, r.speedup_tokens_high),
            duration(r.seconds),
            _speedup(r.speedup_seconds, r.speedup_seconds_low, r.speedup_seconds_high),
        ]
        for r in records(targets)
    ]
    return _cut(header, rows)


def left_out_text(left_out: pd.DataFrame) -> TextTable:
    header = ["method", "setting", "seed", "status", "reason", "folder"]
    rows = [
        [r.method, r.setting, "-" if pd.isna(r.seed) else str(int(r.seed)), r.status, _short(r.reason), r.folder]
        for r in records(left_out)
    ]
    return _cut(header, [[str(cell) for cell in row] for row in rows])


def records(frame: pd.DataFrame) -> Iterable[Any]:
    """The rows, columns as attributes; a data frame has no static type for them."""
    return frame.itertuples(index=False)


def loss(value: float) -> str:
    """Four decimals for losses; large numbers of another metric with separators."""
    if math.isnan(value):
        return "-"
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:,.0f}"


def signed(value: float) -> str:
    return loss(value) if math.isnan(value) or value < 0 else f"+{loss(value)}"


def p_text(p: float) -> str:
    if math.isnan(p):
        return "-"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def large(value: float) -> str:
    """1.23M, 45.6k, 789."""
    if math.isnan(value):
        return "-"
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def duration(seconds: float) -> str:
    if math.isnan(seconds):
        return "-"
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def memory(value: float) -> str:
    return "-" if math.isnan(value) else f"{value / 2**30:.2f} GiB"


def _mean_sd(mean: float, sd: float) -> str:
    return loss(mean) if math.isnan(sd) else f"{loss(mean)} ± {loss(sd)}"


def _interval(mean: float, low: float, high: float) -> str:
    if math.isnan(mean):
        return ""
    return signed(mean) if math.isnan(low) else f"{signed(mean)} [{signed(low)}, {signed(high)}]"


def _speedup(mean: float, low: float, high: float) -> str:
    if math.isnan(mean):
        return "-"
    return f"{mean:.2f}x" if math.isnan(low) else f"{mean:.2f}x [{low:.2f}, {high:.2f}]"


def _why_empty(row: Any) -> str:
    words = ("diverged", "failed", "stopped", "unfinished")
    return ", ".join(f"{n} {word}" for word in words if (n := getattr(row, word))) or "no value"


def _short(text: str) -> str:
    return text if len(text) <= 160 else f"{text[:157]}..."


def _cut(header: list[str], rows: list[list[str]]) -> TextTable:
    return TextTable(header, rows[:MOST_ROWS], max(0, len(rows) - MOST_ROWS))
