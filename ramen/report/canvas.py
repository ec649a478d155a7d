"""Paper and paint of the pictures: size, colours, label placement. One method keeps one colour in every picture."""

from collections.abc import Sequence
from operator import itemgetter

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.optimize import isotonic_regression

from ramen.report.method import Method

BASELINE_COLOUR = "#222222"
# Okabe and Ito's colour-blind safe set without its yellow (too pale on white), and two of Paul Tol's.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#999933")
MOST_METHODS = len(PALETTE) + 1  # what a picture can show: the best ones, and the baseline
INK, FAINT = "#333333", "#dddddd"


def readable(ranked: list[Method], baseline: Method) -> list[Method]:
    """The methods to draw, best first: as many as can be told apart, the baseline always among them."""
    shown = [method for method in ranked if method is not baseline][: MOST_METHODS - 1]
    return [method for method in ranked if method in shown or method is baseline]


def colours(methods: list[Method], baseline: Method) -> dict[str, str]:
    """By label, in alphabetical order: adding a seed does not repaint the picture."""
    others = sorted(method.label for method in methods if method is not baseline)
    return dict(zip(others, PALETTE, strict=False)) | {baseline.label: BASELINE_COLOUR}


def sheet(height: float = 4.6) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8.4, height), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#999999")
    axes.tick_params(colors=INK, labelsize=10)
    axes.grid(True, color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def title(axes: Axes, text: str, x: str, y: str) -> None:
    axes.set_title(literal(text), loc="left", fontsize=12, color=INK, fontweight="bold", pad=10)
    axes.set_xlabel(x, fontsize=10.5, color=INK)
    axes.set_ylabel(y, fontsize=10.5, color=INK)


def literal(text: str) -> str:
    """Text that shows as it is: what stands between two dollars would be set as a formula, or fail to be."""
    return text.replace("$", r"\$")


def label_ends(axes: Axes, ends: list[tuple[str, str, float, float]], gap: float = 0.058) -> None:
    """Write (text, colour, x, y) right of the axes, moved apart where they would overlap, with a line to the point;
    x and y in data units, limits set. A point above the picture gets an arrow in place of the line."""
    low, high = axes.get_ylim()
    ends = sorted(ends, key=itemgetter(3))
    places = apart([min(max((y - low) / (high - low), 0.0), 1.0) for *_, y in ends], gap)
    for (text, colour, x, y), place in zip(ends, places, strict=True):
        line = dict(arrowstyle="-", color=colour, lw=0.7, ls=":", shrinkA=1, shrinkB=3, relpos=(0, 0.5))
        axes.annotate(
            literal(f"▲ {text}" if y > high else text),
            (x, min(y, high)),
            xytext=(1.035, place),
            textcoords=axes.transAxes,
            color=colour,
            fontsize=10,
            va="center",
            arrowprops=None if y > high else line,
            annotation_clip=False,
        )


def usual(values: Sequence[float]) -> list[float]:
    """Values without those far worse (above) than the rest: what an axis should be made for."""
    ordered = sorted(values)
    middle = ordered[len(ordered) // 2]
    return [value for value in ordered if value <= middle + 4 * (middle - ordered[0]) + 1e-9]


def apart(places: list[float], gap: float) -> list[float]:
    """Sorted places in [0, 1], moved as little as needed (least squares) to be `gap` apart."""
    steps = gap * np.arange(len(places))
    return list(np.clip(isotonic_regression(places - steps).x, 0, 1 - gap * (len(places) - 1)) + steps)
