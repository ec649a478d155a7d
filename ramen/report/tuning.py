"""Is each method tuned? Metric against learning rate, and what the shape of that curve says."""

from dataclasses import dataclass

from ramen.report.method import LR, Method, Setting, best_setting, cell_spread, value_text
from ramen.report.statistics import spread


@dataclass(frozen=True)
class LrPoint:
    """One learning rate of one method: the best cell at that rate (NaN mean if every run diverged)."""

    lr: float
    mean: float
    sd: float
    n: int
    diverged: int  # runs at this rate that diverged


@dataclass(frozen=True)
class LrCurve:
    label: str
    points: list[LrPoint]  # by increasing learning rate
    best: float | None  # the learning rate of the chosen setting
    remark: str  # what a reader should know about the tuning, one sentence


def lr_curves(methods: list[Method]) -> list[LrCurve]:
    return [LrCurve(m.label, points, lr_in(m.chosen), _remark(m, points)) for m in methods if (points := _points(m))]


def lr_in(setting: Setting | None) -> float | None:
    value = dict(setting or ()).get(LR)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _points(method: Method) -> list[LrPoint]:
    points = []
    for lr in sorted({lr for setting in method.tried if (lr := lr_in(setting)) is not None}):
        best = best_setting(method, [setting for setting in method.cells if lr_in(setting) == lr])
        found = spread([]) if best is None else cell_spread(method, best)
        diverged = sum(run.status == "diverged" and run.value(LR) == lr for run in method.runs)
        points.append(LrPoint(lr, found.mean, found.sd, found.n, diverged))
    return points


def _remark(method: Method, points: list[LrPoint]) -> str:
    """Edge: the best rate is the smallest or largest tried, diverged rates included (divergence bounds the grid)."""
    best = lr_in(method.chosen)
    if best is None:
        return f"{method.label}: no learning rate led to a finished run."
    if len(points) == 1:
        return f"{method.label}: only one learning rate tried ({value_text(best)}); whether it is tuned is unknown."
    tried = f"{len(points)} tried, {value_text(points[0].lr)} to {value_text(points[-1].lr)}"
    if best in (points[0].lr, points[-1].lr):
        side, way = ("smallest", "lower") if best == points[0].lr else ("largest", "higher")
        return (
            f"{method.label}: best learning rate {value_text(best)} is on the edge of the grid ({side} of {tried}); "
            f"a {way} one may be better, so the method is not shown at its best."
        )
    return f"{method.label}: best learning rate {value_text(best)} lies inside the grid ({tried})."
