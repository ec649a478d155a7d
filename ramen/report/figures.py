"""The pictures of a report: loss curves, differences to the baseline, and loss against learning rate."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FixedLocator, NullLocator

from ramen.report import canvas
from ramen.report.formatting import loss, p_text, rows, value_text
from ramen.report.method import HIGHER_IS_BETTER, PER_BYTE, LrCurve, Method

AXES = {"steps": "step", "tokens": "tokens", "seconds": "seconds"}
UNITS = {"steps": "optimizer steps", "tokens": "training tokens"}
LOSSES = {"val_loss": "validation loss", "train_loss": "training loss"}
POINTS = 400  # of a curve
START = 0.35  # this first share of training sets no limit of the y axis: every method falls steeply there
ASIDE = 0.012  # of the rate, between the error bars of two methods


@dataclass(frozen=True)
class Band:
    """A method's mean loss over its seeds at the same steps; `sd` is all NaN for a single seed."""

    label: str
    x: np.ndarray  # mean over seeds of what the axis shows at those steps
    mean: np.ndarray
    sd: np.ndarray
    seeds: int
    final: float  # mean of the seeds' last losses
    apart: bool  # no verdict on it


def draw(
    ranking: pd.DataFrame, methods: list[Method], baseline: Method, lr_curves: list[LrCurve], out: Path
) -> dict[str, Path]:
    """Save the pictures that the runs allow into `out`; {name without .png: path}."""
    by_label = {method.label: method for method in methods if method.chosen is not None}
    apart = set(ranking[~ranking["comparable"]]["method"])
    shown = canvas.top_methods([by_label[label] for label in ranking["method"] if label in by_label], baseline)
    if not shown:
        return {}
    paint = canvas.colours(shown, baseline)
    figures: dict[str, Figure] = {}
    runs = [run for method in shown for run in method.chosen_runs.values()]
    evaluated = any(len(run.curve.series("step", "val_loss")[0]) >= 2 for run in runs)
    kind = "val_loss" if evaluated else "train_loss"
    for axis, column in AXES.items():
        if bands := [b for method in shown if (b := band(method, column, kind, method.label in apart))]:
            figures[f"loss_by_{axis}"] = loss_figure(bands, axis, kind, paint, baseline.metric == PER_BYTE)
    if different := rows(ranking[ranking["method"].isin(paint) & ranking["difference"].notna()]):
        figures["difference"] = difference_figure(different, by_label, baseline, paint)
    tuned = [curve for curve in lr_curves if curve.label in paint] or lr_curves
    if any(len(curve.points) > 1 for curve in tuned):
        for curve, colour in zip(tuned, canvas.PALETTE, strict=False):
            paint.setdefault(curve.label, colour)  # curves over another grouping than the methods
        curves = [curve for curve in tuned if curve.label in paint]
        figures["learning_rate"] = learning_rate_figure(curves, baseline.metric, paint)
    for name, figure in figures.items():
        figure.savefig(out / f"{name}.png")
    return {name: out / f"{name}.png" for name in figures}


def band(method: Method, axis: str, kind: str, apart: bool = False) -> Band | None:
    """Seeds interpolated to the union of their steps, over the range that every seed covers; None without points."""
    runs = [run for run in method.chosen_runs.values() if len(run.curve.series(axis, kind)[0]) >= 2]
    if not runs:
        return None
    curves = [method.losses(run, "step", kind) for run in runs]
    losses = _by_step(curves).dropna()
    x = _by_step([run.curve.series("step", axis) for run in runs]).reindex(losses.index).mean(axis=1)
    if len(losses) < 2:
        return None
    thin = np.unique(np.linspace(0, len(losses) - 1, POINTS).round().astype(int))
    mean, sd = losses.mean(axis=1).to_numpy()[thin], losses.std(axis=1).to_numpy()[thin]
    final = float(np.mean([losses[-1] for _, losses in curves]))
    return Band(method.label, x.to_numpy()[thin], mean, sd, len(curves), final, apart)


def loss_figure(bands: list[Band], axis: str, kind: str, colours: dict[str, str], per_byte: bool) -> Figure:
    """Loss of `bands` (best first) against `axis` (steps, tokens, seconds), zoomed to where methods differ."""
    divisor, unit = _seconds_unit(bands) if axis == "seconds" else (1.0, UNITS[axis])
    fewest, most = min(band.seeds for band in bands), max(band.seeds for band in bands)
    seeds = f"mean ± sd over {most if fewest == most else f'{fewest} to {most}'} seeds" if most > 1 else "one seed"
    y = f"{LOSSES[kind]} ({'bits a byte' if per_byte else 'nats a token'})"
    figure, axes = canvas.new_figure(f"Loss against {axis}, {seeds}", unit, y)
    for band in reversed(bands):  # the best on top
        x, colour = band.x / divisor, colours[band.label]
        axes.plot(x, band.mean, color=colour, linewidth=1.9, solid_capstyle="round")
        if band.seeds > 1:
            axes.fill_between(x, band.mean - band.sd, band.mean + band.sd, color=colour, alpha=0.13, linewidth=0)
    low, high = _loss_limits(bands)
    entered = [float(band.x[np.argmax(band.mean <= high)]) for band in bands if (band.mean <= high).any()]
    axes.set_ylim(low, high)
    axes.set_xlim(0.8 * min(entered) / divisor, max(band.x[-1] for band in bands) / divisor)
    axes.locator_params(axis="x", nbins=7)
    if axis != "seconds":
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    ends = [
        (
            f"{canvas.literal(b.label)}  {loss(b.final)}{' (no verdict)' * b.apart}",
            colours[b.label],
            float(b.x[-1]) / divisor,
            float(b.mean[-1]),
        )
        for b in bands
    ]
    canvas.label_ends(axes, ends)
    return figure


def difference_figure(
    shown: list[Any], methods: dict[str, Method], baseline: Method, colours: dict[str, str]
) -> Figure:
    """Each method's difference to the baseline (rows of the ranking): seeds as dots, mean and interval as a bar."""
    known = any(not math.isnan(row.low) for row in shown)
    title = (
        f"Difference to {baseline.label}, {'95 % interval and p (Holm)' if known else 'too few seeds for an interval'}"
    )
    x = f"{baseline.metric}, difference ({'right' if baseline.metric in HIGHER_IS_BETTER else 'left'} is better)"
    figure, axes = canvas.new_figure(title, x, "", height=1.6 + 0.5 * len(shown))
    axes.axvline(0, color=canvas.BASELINE_COLOUR, linewidth=1.2)
    low, high = _difference_limits(shown)
    axes.set_xlim(low, high)
    axes.locator_params(axis="x", nbins=6)
    for y, row in enumerate(reversed(shown)):
        colour, base = colours[row.method], baseline.scores
        dots = [value - base[seed] for seed, value in methods[row.method].scores.items() if seed in base]
        if low < row.difference < high:
            axes.plot([row.low, row.high], [y, y], color=colour, linewidth=2.4, solid_capstyle="butt")
            axes.plot([row.difference], [y], "|", color=colour, markersize=16, markeredgewidth=2.4)
            axes.plot(dots, [y] * len(dots), "o", mfc="white", mec=colour, markersize=6, markeredgewidth=1.4)
        else:
            right = row.difference >= high
            axes.plot([high if right else low], [y], ">" if right else "<", color=colour, markersize=9, clip_on=False)
        certainty = "n = 1" if math.isnan(row.p_holm) else p_text(row.p_holm, "p")
        axes.annotate(
            f"{loss(row.difference, '+')}   {certainty}", (1.03, y), xycoords=("axes fraction", "data"), va="center",
            fontsize=10, color=canvas.INK,
        )  # fmt: skip
    axes.set_yticks(range(len(shown)), [canvas.literal(row.method) for row in reversed(shown)])
    axes.set_ylim(-0.6, len(shown) - 0.4)
    axes.grid(False, axis="y")
    return figure


def learning_rate_figure(curves: list[LrCurve], metric: str, colours: dict[str, str]) -> Figure:
    """Result against the rates that were tried: a line a method, a ring on the rate shown, crosses where runs diverged."""
    figure, axes = canvas.new_figure("Result against learning rate (ring: the rate shown)", "learning rate", metric)
    low, high = _rate_limits(curves)
    axes.set_ylim(low, high)
    rates = sorted({point.lr for curve in curves for point in curve.points})
    if rates[0] > 0:
        axes.set_xscale("log")
    ends = []
    for i, curve in enumerate(curves):
        aside = 1 + ASIDE * (i - (len(curves) - 1) / 2)
        _plot_rates(axes, curve, aside, colours[curve.label], high)
        if with_mean := [p for p in curve.points if p.n]:
            label = canvas.literal(curve.label)
            ends.append((label, colours[curve.label], with_mean[-1].lr * aside, with_mean[-1].mean))
    canvas.label_ends(axes, ends)
    places = axes.transAxes.inverted().transform(axes.transData.transform([(rate, low) for rate in rates]))[:, 0]
    chosen = [rates.index(point.lr) for curve in curves for point in curve.points if point.chosen]
    texts = [value_text(rate) for rate in rates]
    axes.xaxis.set_major_locator(FixedLocator([rates[i] for i in canvas.spaced_ticks(list(places), texts, chosen)]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda rate, _: value_text(rate))
    return figure


def _by_step(series: list[tuple[np.ndarray, np.ndarray]]) -> pd.DataFrame:
    """A column a seed, a row a step that any seed has, linear between a seed's own steps."""
    frame = pd.concat([pd.Series(values, steps) for steps, values in series], axis=1).sort_index()
    return frame.interpolate(method="index", limit_area="inside")


def _loss_limits(bands: list[Band]) -> tuple[float, float]:
    """From the lowest band to what the typical method has after the first part of training; a method whose end is far
    above the others may leave the picture (its label then points upwards)."""
    low = min(float(np.nanmin(band.mean - np.nan_to_num(band.sd))) for band in bands)
    early = float(np.median([np.interp(START * band.x[-1], band.x, band.mean) for band in bands]))
    return canvas.with_margin([low, early, *canvas.trim_outliers([float(band.mean[-1]) for band in bands])], 0.04)


def _difference_limits(shown: list[Any]) -> tuple[float, float]:
    """Room for the intervals of the usual differences; one far beyond becomes an arrow at the edge."""
    usual = max(canvas.trim_outliers([abs(row.difference) for row in shown]))
    inside = [row for row in shown if abs(row.difference) <= usual]
    reach = 3 * usual  # two seeds make intervals that would hide everything else
    ends = [end for row in inside for end in (row.difference, row.low, row.high) if not math.isnan(end)]
    return canvas.with_margin([0.0, *np.clip(ends, -reach, reach)], 0.06)


def _rate_limits(curves: list[LrCurve]) -> tuple[float, float]:
    """Room for the best points and for twice their distance: a rate far too large need not flatten the rest."""
    means = [p.mean for c in curves for p in c.points if p.n]
    best = canvas.trim_outliers([p.mean for c in curves for p in c.points if p.n and p.chosen] or [0.0])
    usual = [m for m in canvas.trim_outliers(means or best) if m <= 3 * max(best) - 2 * min(means or best) + 1e-9]
    return canvas.with_margin([*best, *usual], 0.12)


def _plot_rates(axes: Axes, curve: LrCurve, aside: float, colour: str, high: float) -> None:
    """One method, its rates multiplied by `aside` so that error bars do not hide each other."""
    with_mean = [p for p in curve.points if p.n]
    lrs, means, sds = (np.array([getattr(p, name) for p in with_mean]) for name in ("lr", "mean", "sd"))
    lrs = lrs * aside
    axes.plot(lrs, means, color=colour, linewidth=1.6, marker="o", markersize=4)
    axes.errorbar(lrs, means, np.nan_to_num(sds), fmt="none", color=colour, alpha=0.55, linewidth=1.1)
    rings = [p for p in curve.points if p.chosen]
    axes.plot([p.lr * aside for p in rings], [p.mean for p in rings], "o", ms=9, mfc="none", mec=colour, mew=1.6)
    if diverged := [p.lr * aside for p in curve.points if p.diverged]:  # an empty unclipped line widens the margins
        axes.plot(diverged, [high] * len(diverged), "x", color=colour, ms=8, mew=2, clip_on=False)


def _seconds_unit(bands: list[Band]) -> tuple[float, str]:
    longest = max(float(band.x[-1]) for band in bands)
    if longest > 7200:
        return 3600.0, "training hours"
    return (60.0, "training minutes") if longest > 300 else (1.0, "training seconds")
