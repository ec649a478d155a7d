"""Numbers, names and tables as a reader sees them; the page, the pictures and the terminal share them."""

import math
from typing import Any

import pandas as pd

from ramen.errors import printable
from ramen.runs.read import Value


def one_line(text: object) -> str:
    """Text that neither a terminal nor a table obeys: no line break, control and direction characters escaped."""
    return printable(" ".join(str(text).split()))


def cell_of_csv(value: Any) -> Any:
    """Text that a spreadsheet does not run as a formula: the quote before it makes it text."""
    if not isinstance(value, str):
        return value
    return f"'{one_line(value)}" if value.lstrip()[:1] in tuple("=+-@") else one_line(value)


def value_text(value: Value) -> str:
    """A config value as a person writes it."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def listed(items: list[str], most: int) -> str:
    """`a, b and 3 more`."""
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")


def loss(value: float, sign: str = "") -> str:
    """Four decimals for losses; large numbers of another metric with separators. `sign`: "+" for a difference."""
    return "-" if math.isnan(value) else f"{value:{sign}.4f}" if abs(value) < 1000 else f"{value:{sign},.0f}"


def p_text(p: float, name: str = "") -> str:
    """`0.012` or `< 0.001`; with a name `p = 0.012`."""
    text = "-" if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"
    return f"{name} {text if text.startswith('<') else f'= {text}'}" if name else text


def large(value: float) -> str:
    """1.23M, 45.6k, 789."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return "-" if math.isnan(value) else f"{value:.3g}"


def duration(seconds: float) -> str:
    for least, size, unit in ((7200, 3600, "h"), (120, 60, "min"), (-math.inf, 1, "s")):
        if seconds >= least:
            return f"{seconds / size:.1f} {unit}"
    return "-"


def memory(value: float) -> str:
    return "-" if math.isnan(value) else f"{value / 2**30:.2f} GiB"


def speedup(mean: float, low: float, high: float) -> str:
    interval = "" if math.isnan(low) else f" [{low:.2f}, {high:.2f}]"
    return "-" if math.isnan(mean) else f"{mean:.2f}x{interval}"


def ranking_text(ranking: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The ranking as text; its columns are what the page shows and the terminal chooses from."""
    cells = []
    for r in rows(ranking):
        mean = loss(r.mean) + ("" if math.isnan(r.sd) else f" ± {loss(r.sd)}")
        if not r.n:
            counts = {status: getattr(r, status) for status in ("diverged", "failed", "stopped", "unfinished")}
            mean = ", ".join(f"{n} {status}" for status, n in counts.items() if n) or "no value"
        interval = "" if math.isnan(r.low) else f" [{loss(r.low, '+')}, {loss(r.high, '+')}]"
        row = {"": r.rank if r.n and r.comparable else "-", "method": r.method, "setting": r.setting}
        row |= {f"{metric} (mean ± sd)": mean, "n": r.n}
        row["difference [95 % interval, Holm]"] = "" if math.isnan(r.difference) else loss(r.difference, "+") + interval
        row |= {"p": p_text(r.p), "p (Holm)": p_text(r.p_holm)}
        cells.append(row | {"verdict": f"{r.verdict} (Welch)" if r.test == "Welch" else r.verdict})
    return pd.DataFrame(cells).map(one_line)


def rows(frame: pd.DataFrame) -> list[Any]:
    """The rows, columns as attributes; a data frame has no static type for them."""
    return list(frame.itertuples(index=False))
