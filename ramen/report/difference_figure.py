"""Each method's difference to the baseline: seeds as dots, the mean and its 95 % interval as a bar."""

import math
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from ramen.report import canvas
from ramen.report.cells import p_text, records, signed
from ramen.report.method import HIGHER_IS_BETTER, Method


def draw_differences(
    ranking: pd.DataFrame, methods: list[Method], baseline: Method, colours: dict[str, str]
) -> Figure | None:
    """The picture; None if no method has a difference to draw."""
    by_label = {method.label: method for method in methods}
    rows = [r for r in records(ranking) if r.method in by_label and not math.isnan(r.difference)]
    if not rows:
        return None
    figure, axes = canvas.sheet(height=1.6 + 0.5 * len(rows))
    axes.axvline(0, color=canvas.BASELINE_COLOUR, linewidth=1.2)
    low, high = limits(rows)
    axes.set_xlim(low, high)
    for y, row in enumerate(reversed(rows)):
        colour, base = colours[row.method], baseline.scores
        dots = [value - base[seed] for seed, value in by_label[row.method].scores.items() if seed in base]
        if low < row.difference < high:
            axes.plot([row.low, row.high], [y, y], color=colour, linewidth=2.4, solid_capstyle="butt")
            axes.plot([row.difference], [y], "|", color=colour, markersize=16, markeredgewidth=2.4)
            axes.plot(dots, [y] * len(dots), "o", mfc="white", mec=colour, markersize=6, markeredgewidth=1.4)
        else:
            right = row.difference >= high
            axes.plot([high if right else low], [y], ">" if right else "<", color=colour, markersize=9, clip_on=False)
        p = p_text(row.p)
        certainty = "n = 1" if p == "-" else f"p {p}" if p.startswith("<") else f"p = {p}"
        axes.annotate(
            f"{signed(row.difference)}   {certainty}", (1.03, y), xycoords=("axes fraction", "data"), va="center",
            fontsize=10, color=canvas.INK,
        )  # fmt: skip
    axes.set_yticks(range(len(rows)), [canvas.literal(row.method) for row in reversed(rows)])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.grid(False, axis="y")
    metric = baseline.metric
    interval = ", 95 % interval" if any(not math.isnan(row.low) for row in rows) else ", too few seeds for an interval"
    better = "right" if metric in HIGHER_IS_BETTER else "left"
    canvas.title(axes, f"Difference to {baseline.label}{interval}", f"{metric}, difference ({better} is better)", "")
    return figure


def limits(rows: list[Any]) -> tuple[float, float]:
    """Room for the intervals of the usual differences; what is far beyond becomes an arrow at the edge."""
    usual = canvas.usual([abs(row.difference) for row in rows])
    inside = [row for row in rows if abs(row.difference) <= max(usual)]
    reach = 3 * max(usual)  # two seeds make intervals that would hide everything else
    ends = [0.0, *(row.difference for row in inside)]
    ends += [min(max(end, -reach), reach) for row in inside for end in (row.low, row.high) if not math.isnan(end)]
    margin = 0.06 * (max(ends) - min(ends)) or 0.01
    return min(ends) - margin, max(ends) + margin
