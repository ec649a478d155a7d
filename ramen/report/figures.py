"""The pictures of a report: loss curves, differences to the baseline, and loss against learning rate.

One method keeps one colour in every picture.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib import font_manager, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from ramen.report.formatting import loss, one_line, p_text, rows, value_text
from ramen.report.grouping import HIGHER_IS_BETTER, MOST_DRAWN, PER_BYTE, LrCurve, Method
from ramen.runs.read import series

BASELINE_COLOUR = "#222222"
# Okabe and Ito's colour-blind safe set without its yellow (too pale on white), and two of Paul Tol's.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#999933")
INK = "#333333"
STYLE: Any = {
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#999999", "axes.axisbelow": True,
    "axes.grid": True, "grid.color": "#dddddd", "grid.linewidth": 0.6, "xtick.color": INK, "ytick.color": INK,
    "axes.labelcolor": INK, "axes.labelsize": 10.5, "axes.titlesize": 12, "axes.titleweight": "bold",
    "axes.titlecolor": INK, "axes.titlepad": 10, "axes.titlelocation": "left", "legend.frameon": False,
    "text.parse_math": False, "figure.constrained_layout.use": True, "figure.dpi": 150,
}  # fmt: skip
LONGEST_LABEL = 36
AXES = {"steps": "step", "tokens": "tokens", "seconds": "seconds"}
UNITS = {  # up to the longest run, size, name
    "steps": [(math.inf, 1, "optimizer steps")],
    "tokens": [(math.inf, 1, "training tokens")],
    "seconds": [(300, 1, "training seconds"), (7200, 60, "training minutes"), (math.inf, 3600, "training hours")],
}
LOSSES = {"val_loss": "validation loss", "train_loss": "training loss"}
POINTS = 400  # of a curve
START = 0.35  # this first share of training sets no limit of the y axis: every method falls steeply there
ASIDE = 0.012  # of the rate, between the error bars of two methods


class Band(NamedTuple):
    """A method's mean loss over its seeds at the same steps; `sd` is all NaN for a single seed."""

    label: str
    x: np.ndarray  # mean over seeds of what the axis shows at those steps
    mean: np.ndarray
    sd: np.ndarray
    seeds: int
    final: float  # mean of the seeds' last losses


@rc_context(STYLE)
def draw(
    ranking: pd.DataFrame, methods: list[Method], baseline: str, lr_curves: list[LrCurve], out: Path
) -> dict[str, Path]:
    """Save the pictures that the runs allow into `out`; {name without .png: path}."""
    by_label = {method.label: method for method in methods if method.chosen is not None}
    ranked = [label for label in ranking["method"] if label in by_label]
    others = [label for label in ranked if label != baseline][: MOST_DRAWN - 1]  # as many as have a colour
    # In alphabetical order: adding a seed does not repaint the picture.
    paint = dict(zip(sorted(others), PALETTE, strict=False)) | {baseline: BASELINE_COLOUR}
    if not (shown := [by_label[label] for label in ranked if label in paint]):
        return {}
    metric = shown[0].metric
    apart = set(ranking[~ranking["comparable"]]["method"])
    figures: dict[str, Figure] = {}
    evaluated = any(len(series(r.curve, "step", "val_loss")[0]) >= 2 for m in shown for r in m.chosen_runs.values())
    kind = "val_loss" if evaluated else "train_loss"
    for axis, column in AXES.items():
        if bands := [b for method in shown if (b := band(method, column, kind))]:
            y = f"{LOSSES[kind]} ({'bits a byte' if metric == PER_BYTE else 'nats a token'})"
            figures[f"loss_by_{axis}"] = loss_figure(bands, axis, y, paint, apart)
    if different := rows(ranking[ranking["method"].isin(paint) & ranking["difference"].notna()]):
        figures["difference"] = difference_figure(different, by_label, by_label[baseline], paint)
    tuned = [curve for curve in lr_curves if curve.label in paint] or lr_curves
    if any(len(curve.points) > 1 for curve in tuned):
        for curve, colour in zip(tuned, PALETTE, strict=False):
            paint.setdefault(curve.label, colour)  # curves over another grouping than the methods
        curves = [curve for curve in tuned if curve.label in paint]
        figures["learning_rate"] = learning_rate_figure(curves, metric, paint)
    for name, figure in figures.items():
        figure.savefig(out / f"{name}.png")
    return {name: out / f"{name}.png" for name in figures}


def band(method: Method, axis: str, kind: str) -> Band | None:
    """Seeds interpolated to the union of their steps, over the range that every seed covers; None without points."""
    runs = [run for run in method.chosen_runs.values() if len(series(run.curve, axis, kind)[0]) >= 2]
    if not runs:
        return None
    curves = [method.losses(run, "step", kind) for run in runs]
    losses = _by_step(curves).dropna()
    x = _by_step([series(run.curve, "step", axis) for run in runs]).reindex(losses.index).mean(axis=1)
    if len(losses) < 2:
        return None
    thin = np.unique(np.linspace(0, len(losses) - 1, POINTS).round().astype(int))
    mean, sd = losses.mean(axis=1).to_numpy()[thin], losses.std(axis=1).to_numpy()[thin]
    final = float(np.mean([losses[-1] for _, losses in curves]))
    return Band(method.label, x.to_numpy()[thin], mean, sd, len(curves), final)


def loss_figure(bands: list[Band], axis: str, y: str, colours: dict[str, str], apart: set[str]) -> Figure:
    """Loss of `bands` (best first) against `axis` (steps, tokens, seconds), zoomed to where methods differ."""
    longest = max(float(band.x[-1]) for band in bands)
    divisor, unit = next((size, unit) for most, size, unit in UNITS[axis] if longest <= most)
    fewest, most = min(band.seeds for band in bands), max(band.seeds for band in bands)
    seeds = f"mean ± sd over {most if fewest == most else f'{fewest} to {most}'} seeds" if most > 1 else "one seed"
    figure, axes = new_figure(f"Loss against {axis}, {seeds}", unit, y)
    # From the lowest band to what the typical method has after the first part of training; a method whose end is far above
    # the others may leave the picture.
    lowest = min(float(np.nanmin(band.mean - np.nan_to_num(band.sd))) for band in bands)
    early = float(np.median([np.interp(START * band.x[-1], band.x, band.mean) for band in bands]))
    low, high = _with_margin([lowest, early, *_usual([float(band.mean[-1]) for band in bands])], 0.04)
    for place, band in enumerate(bands):
        x, colour = band.x / divisor, colours[band.label]
        label = f"{_label(band.label, band.mean[-1], high)}  {loss(band.final)}"
        label += " (no verdict)" if band.label in apart else ""
        front = 3 - place / len(bands)  # the best on top
        axes.plot(x, band.mean, color=colour, lw=1.9, solid_capstyle="round", label=label, zorder=front)
        if band.seeds > 1:
            axes.fill_between(x, band.mean - band.sd, band.mean + band.sd, color=colour, alpha=0.13, linewidth=0)
    entered = [float(band.x[np.argmax(band.mean <= high)]) for band in bands if (band.mean <= high).any()]
    axes.set_ylim(low, high)
    axes.set_xlim(0.8 * min(entered) / divisor, longest / divisor)
    axes.locator_params(axis="x", nbins=7)
    if axis != "seconds":
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    figure.legend(loc="outside right upper")
    return figure


def difference_figure(
    shown: list[Any], methods: dict[str, Method], baseline: Method, colours: dict[str, str]
) -> Figure:
    """Each method's difference to the baseline (rows of the ranking): seeds as dots, mean and interval as a bar."""
    known = any(not math.isnan(row.low) for row in shown)
    title = f"Difference to {baseline.label}, "
    title += "95 % interval and p (Holm)" if known else "too few seeds for an interval"
    x = f"{baseline.metric}, difference ({'right' if baseline.metric in HIGHER_IS_BETTER else 'left'} is better)"
    figure, axes = new_figure(title, x, "", height=1.6 + 0.5 * len(shown))
    axes.axvline(0, color=BASELINE_COLOUR, linewidth=1.2)
    usual = max(_usual([abs(row.difference) for row in shown]))  # one far beyond becomes an arrow at the edge
    inside = [row for row in shown if abs(row.difference) <= usual]
    ends = [end for row in inside for end in (row.difference, row.low, row.high) if not math.isnan(end)]
    # Two seeds make intervals that would hide everything else.
    low, high = _with_margin([0.0, *np.clip(ends, -3 * usual, 3 * usual)], 0.06)
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
        text, place = f"{loss(row.difference, '+')}   {certainty}", ("axes fraction", "data")
        axes.annotate(text, (1.03, y), xycoords=place, va="center", fontsize=10, color=INK)
    axes.set_yticks(range(len(shown)), [literal(row.method) for row in reversed(shown)])
    axes.set_ylim(-0.6, len(shown) - 0.4)
    axes.grid(False, axis="y")
    return figure


def learning_rate_figure(curves: list[LrCurve], metric: str, colours: dict[str, str]) -> Figure:
    """Result against the rates that were tried: a line a method, a ring on the rate shown, crosses where runs diverged."""
    figure, axes = new_figure("Result against learning rate (ring: the rate shown)", "learning rate", metric)
    # Room for the best points and for twice their distance: a rate far too large need not flatten the rest.
    finished = pd.concat([curve.points for curve in curves]).query("n > 0")
    best = _usual(list(finished["mean"][finished["chosen"]]) or [0.0])
    means = list(finished["mean"]) or best
    near = [mean for mean in _usual(means) if mean <= 3 * max(best) - 2 * min(means) + 1e-9]
    low, high = _with_margin([*best, *near], 0.12)
    axes.set_ylim(low, high)
    rates = sorted({lr for curve in curves for lr in curve.points["lr"]})
    if rates[0] > 0:
        axes.set_xscale("log")
    for i, curve in enumerate(curves):
        colour, aside = colours[curve.label], 1 + ASIDE * (i - (len(curves) - 1) / 2)  # error bars hide no others
        points = curve.points.assign(lr=curve.points["lr"] * aside)
        line, ring, lost = points[points["n"] > 0], points[points["chosen"]], points[points["diverged"] > 0]
        label = _label(curve.label, line["mean"].min(), high)
        axes.plot(line["lr"], line["mean"], color=colour, lw=1.6, marker="o", ms=4, label=label)
        axes.errorbar(line["lr"], line["mean"], line["sd"].fillna(0), fmt="none", color=colour, alpha=0.55, lw=1.1)
        axes.plot(ring["lr"], ring["mean"], "o", ms=9, mfc="none", mec=colour, mew=1.6)
        if len(lost):  # an empty unclipped line widens the margins
            axes.plot(lost["lr"], [high] * len(lost), "x", color=colour, ms=8, mew=2, clip_on=False)
    figure.legend(loc="outside right upper")
    places = axes.transAxes.inverted().transform(axes.transData.transform([(rate, low) for rate in rates]))[:, 0]
    chosen = [rates.index(lr) for curve in curves for lr in curve.points["lr"][curve.points["chosen"]]]
    texts = [value_text(rate) for rate in rates]
    shown = spaced_ticks(list(places), texts, chosen)
    axes.set_xticks([rates[i] for i in shown], [texts[i] for i in shown])
    axes.minorticks_off()
    return figure


def new_figure(title: str, x: str, y: str, height: float = 4.6) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8.4, height))
    axes = figure.add_subplot(title=literal(title, 70), xlabel=x, ylabel=y)
    return figure, axes


def literal(text: str, longest: int = LONGEST_LABEL) -> str:
    """Text that shows as it is: characters that the font lacks (CJK) are escaped."""
    glyphs = font_manager.get_font(font_manager.findfont("DejaVu Sans")).get_charmap()
    text = text if len(text) <= longest else f"{text[: longest - 1]}…"
    return "".join(c if ord(c) in glyphs else c.encode("unicode_escape").decode() for c in one_line(text))


def _label(text: str, y: float, high: float) -> str:
    return f"▲ {literal(text)}" if y > high else literal(text)  # it is above the picture


def spaced_ticks(places: list[float], texts: list[str], first: list[int]) -> list[int]:
    """Indices of the ticks (at `places` in [0, 1]) whose texts do not overprint; those of `first` are preferred."""
    halves = [0.0085 * len(text) + 0.008 for text in texts]
    shown: list[int] = []
    for i in [*first, *range(len(places))]:
        if all(abs(places[i] - places[j]) >= halves[i] + halves[j] for j in shown):
            shown.append(i)
    return sorted(shown)


def _by_step(curves: list[tuple[np.ndarray, np.ndarray]]) -> pd.DataFrame:
    """A column a seed, a row a step that any seed has, linear between a seed's own steps."""
    frame = pd.concat([pd.Series(values, steps) for steps, values in curves], axis=1).sort_index()
    return frame.interpolate(method="index", limit_area="inside")


def _usual(values: Sequence[float]) -> list[float]:
    """Values without those far worse (above) than the rest: the ones that an axis should be made for."""
    ordered = sorted(values)
    middle = ordered[len(ordered) // 2]
    return [value for value in ordered if value <= middle + 4 * (middle - ordered[0]) + 1e-9]


def _with_margin(values: Sequence[float], share: float) -> tuple[float, float]:
    """Limits of an axis that shows these values, with this share of their range on both sides."""
    margin = share * (max(values) - min(values)) or 0.01
    return min(values) - margin, max(values) + margin
