"""Numbers, names and tables as a reader sees them; the page, the pictures and the terminal share them."""

import math
from collections.abc import Callable
from typing import Any

import pandas as pd

from ramen.runs.read import Value


def printable(text: object) -> str:
    """Text without line breaks and control, direction and half characters: those are escaped, a terminal obeys them."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in " ".join(str(text).split()))


def cell_of_csv(value: Any) -> Any:
    """Text that a spreadsheet does not run as a formula: the quote before it makes it text."""
    if not isinstance(value, str):
        return value
    return f"'{printable(value)}" if value.lstrip()[:1] in tuple("=+-@") else printable(value)


def value_text(value: Value) -> str:
    """A config value as a person writes it."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    return f"{value:.12g}" if isinstance(value, float) else str(value)


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


def equals_p(p: float) -> str:
    """`p = 0.012` or `p < 0.001`."""
    text = p_text(p)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def large(value: float) -> str:
    """1.23M, 45.6k, 789."""
    if math.isnan(value):
        return "-"
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def seeds(number: int) -> str:
    return f"about {number} seeds" if number <= 1000 else "more than 1,000 seeds"


def duration(seconds: float) -> str:
    if math.isnan(seconds):
        return "-"
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def integer(value: Any) -> str:
    return "-" if pd.isna(value) else str(int(value))


def memory(value: float) -> str:
    return "-" if math.isnan(value) else f"{value / 2**30:.2f} GiB"


def listed(items: list[str], most: int, more: str = "") -> str:
    """`a, b and 3 more`, with a word for what the rest are."""
    rest = f" and {len(items) - most} more{more and f' {more}'}" if len(items) > most else ""
    return ", ".join(items[:most]) + rest


def mean_sd(mean: float, sd: float) -> str:
    return loss(mean) if math.isnan(sd) else f"{loss(mean)} ± {loss(sd)}"


def with_interval(mean: float, low: float, high: float) -> str:
    if math.isnan(mean):
        return ""
    return signed(mean) if math.isnan(low) else f"{signed(mean)} [{signed(low)}, {signed(high)}]"


def speedup(mean: float, low: float, high: float) -> str:
    if math.isnan(mean):
        return "-"
    return f"{mean:.2f}x" if math.isnan(low) else f"{mean:.2f}x [{low:.2f}, {high:.2f}]"


def ranking_text(ranking: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The ranking in words; its columns are what the page shows and the terminal chooses from."""
    columns: dict[str, Callable[[Any], str]] = {
        "": lambda r: str(r.rank) if r.n and r.comparable else "-",
        "method": lambda r: r.method,
        "setting": lambda r: r.setting,
        f"{metric} (mean ± sd)": lambda r: mean_sd(r.mean, r.sd) if r.n else _why_empty(r),
        "n": lambda r: str(r.n),
        "difference [95 % interval, Holm]": lambda r: with_interval(r.difference, r.low, r.high),
        "p": lambda r: p_text(r.p),
        "p (Holm)": lambda r: p_text(r.p_holm),
        "verdict": lambda r: f"{r.verdict}{' (Welch)' if r.test == 'Welch' else ''}",
    }
    return pd.DataFrame({title: [printable(text(row)) for row in rows(ranking)] for title, text in columns.items()})


def rows(frame: pd.DataFrame) -> list[Any]:
    """The rows, columns as attributes; a data frame has no static type for them."""
    return list(frame.itertuples(index=False))


def _why_empty(row: Any) -> str:
    statuses = ("diverged", "failed", "stopped", "unfinished")
    return ", ".join(f"{n} {status}" for status in statuses if (n := getattr(row, status))) or "no value"
