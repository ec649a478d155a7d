"""All the pictures of a report, drawn from the same methods in the same colours."""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from ramen.report import canvas
from ramen.report.curves import band, loss_kind
from ramen.report.difference_figure import draw_differences
from ramen.report.loss_figure import draw_loss
from ramen.report.lr_figure import draw_learning_rates
from ramen.report.method import Method
from ramen.report.tuning import LrCurve

AXES = {"steps": "step", "tokens": "tokens", "seconds": "seconds"}


def draw(
    ranking: pd.DataFrame, methods: list[Method], baseline: Method, lr_curves: list[LrCurve], out: Path
) -> dict[str, Path]:
    """Save the pictures that the runs allow into `out`; {name without .png: path}."""
    by_label = {method.label: method for method in methods if method.chosen is not None}
    shown = canvas.readable([by_label[label] for label in ranking["method"] if label in by_label], baseline)
    if not shown:
        return {}
    paint = canvas.colours(shown, baseline)
    figures: dict[str, Figure] = {}
    loss = loss_kind(shown)
    for axis, column in AXES.items():
        if bands := [b for method in shown if (b := band(method, column, loss))]:
            figures[f"loss_by_{axis}"] = draw_loss(bands, axis, loss, paint)
    if differences := draw_differences(ranking, shown, baseline, paint):
        figures["difference"] = differences
    tuned = [curve for curve in lr_curves if curve.label in paint] or lr_curves
    if any(len(curve.points) > 1 for curve in tuned):
        for curve, colour in zip(tuned, canvas.PALETTE, strict=False):
            paint.setdefault(curve.label, colour)  # curves over another grouping than the methods
        tuned = [curve for curve in tuned if curve.label in paint]
        figures["learning_rate"] = draw_learning_rates(tuned, baseline.metric, paint)
    for name, figure in figures.items():
        figure.savefig(out / f"{name}.png")
    return {name: out / f"{name}.png" for name in figures}
