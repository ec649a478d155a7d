"""Result against learning rate: one line a method, a ring on the rate shown, crosses where runs diverged."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from ramen.report import canvas
from ramen.report.method import value_text
from ramen.report.tuning import LrCurve

ASIDE = 0.012  # of the rate, a method
MOST_TICKS = 10


def draw_learning_rates(curves: list[LrCurve], metric: str, colours: dict[str, str]) -> Figure:
    """The picture of `curves`; the axis shows the rates that were tried."""
    figure, axes = canvas.sheet()
    low, high = limits(curves)
    axes.set_ylim(low, high)
    rates = sorted({point.lr for curve in curves for point in curve.points})
    if rates[0] > 0:
        axes.set_xscale("log")
    if len(rates) <= MOST_TICKS:
        axes.xaxis.set_major_locator(FixedLocator(rates))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda rate, _: value_text(rate))
    ends = []
    for i, curve in enumerate(curves):
        aside = 1 + ASIDE * (i - (len(curves) - 1) / 2)
        _plot(axes, curve, aside, colours[curve.label], high)
        if with_mean := [p for p in curve.points if p.n]:
            ends.append((curve.label, colours[curve.label], with_mean[-1].lr * aside, with_mean[-1].mean))
    canvas.label_ends(axes, ends)
    canvas.title(axes, "Result against learning rate (ring: the rate shown)", "learning rate", metric)
    return figure


def limits(curves: list[LrCurve]) -> tuple[float, float]:
    """Room for the best points and for twice their distance: a rate far too large need not flatten the rest."""
    means = [p.mean for c in curves for p in c.points if p.n]
    best = [p.mean for c in curves for p in c.points if p.n and p.lr == c.best]
    if not best:
        return 0.0, 1.0
    low, worst = min(means), max(canvas.usual(best))
    high = max(worst, *(m for m in (*canvas.usual(means), worst) if m <= worst + 2 * (worst - low) + 1e-9))
    margin = 0.12 * (high - low) or 0.01
    return low - margin, high + margin


def _plot(axes: Axes, curve: LrCurve, aside: float, colour: str, high: float) -> None:
    """One method, its rates multiplied by `aside` so that error bars do not hide each other."""
    kept = [p for p in curve.points if p.n]
    lrs, means, sds = (np.array([getattr(p, name) for p in kept]) for name in ("lr", "mean", "sd"))
    lrs = lrs * aside
    axes.plot(lrs, means, color=colour, linewidth=1.6, marker="o", markersize=4)
    axes.errorbar(lrs, means, np.nan_to_num(sds), fmt="none", color=colour, alpha=0.55, linewidth=1.1)
    shown = [p for p in curve.points if p.lr == curve.best]
    axes.plot([p.lr * aside for p in shown], [p.mean for p in shown], "o", ms=9, mfc="none", mec=colour, mew=1.6)
    if lost := [p.lr * aside for p in curve.points if p.diverged]:  # an empty unclipped line would widen the margins
        axes.plot(lost, [high] * len(lost), "x", color=colour, ms=8, mew=2, clip_on=False)
