"""Paper and paint of the pictures: size, colours, labels. One method keeps one colour in every picture."""

from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import numpy as np
from matplotlib import font_manager, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.optimize import isotonic_regression

from ramen.report.formatting import one_line
from ramen.report.method import MOST_DRAWN, Method

BASELINE_COLOUR = "#222222"
# Okabe and Ito's colour-blind safe set without its yellow (too pale on white), and two of Paul Tol's.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#999933")
INK = "#333333"
STYLE: Any = {
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#999999", "axes.axisbelow": True,
    "axes.grid": True, "grid.color": "#dddddd", "grid.linewidth": 0.6, "xtick.color": INK, "ytick.color": INK,
    "axes.labelcolor": INK, "axes.labelsize": 10.5, "axes.titlesize": 12, "axes.titleweight": "bold",
    "axes.titlecolor": INK, "axes.titlepad": 10,
}  # fmt: skip
LONGEST_LABEL = 36


def top_methods(ranked: list[Method], baseline: Method) -> list[Method]:
    """The methods to draw, best first: as many as can be told apart, the baseline always among them."""
    others = [method for method in ranked if method is not baseline][: MOST_DRAWN - 1]
    return [method for method in ranked if method in others or method is baseline]


def colours(methods: list[Method], baseline: Method) -> dict[str, str]:
    """By label, in alphabetical order: adding a seed does not repaint the picture."""
    others = sorted(method.label for method in methods if method is not baseline)
    return dict(zip(others, PALETTE, strict=False)) | {baseline.label: BASELINE_COLOUR}


def new_figure(title: str, x: str, y: str, height: float = 4.6) -> tuple[Figure, Axes]:
    with rc_context(STYLE):
        figure = Figure(figsize=(8.4, height), dpi=150, layout="constrained")
        axes = figure.add_subplot()
        axes.set_title(literal(title, 70), loc="left")
        axes.set(xlabel=x, ylabel=y)
    return figure, axes


def literal(text: str, longest: int = LONGEST_LABEL) -> str:
    """Text that shows as it is: no formula between dollars; characters that the font lacks (CJK) are escaped."""
    glyphs = font_manager.get_font(font_manager.findfont("DejaVu Sans")).get_charmap()
    text = text if len(text) <= longest else f"{text[: longest - 1]}…"
    shown = (c if ord(c) in glyphs else c.encode("unicode_escape").decode() for c in one_line(text))
    return "".join(shown).replace("$", r"\$")


def label_ends(axes: Axes, ends: list[tuple[str, str, float, float]], gap: float = 0.058) -> None:
    """Write (text, colour, x, y) right of the axes, moved apart where they would overlap, with a line to the point;
    x and y in data units, limits set. A point above the picture gets an arrow in place of the line."""
    low, high = axes.get_ylim()
    ends = sorted(ends, key=itemgetter(3))
    places = spread_labels([min(max((y - low) / (high - low), 0.0), 1.0) for *_, y in ends], gap)
    for (text, colour, x, y), place in zip(ends, places, strict=True):
        line = dict(arrowstyle="-", color=colour, lw=0.7, ls=":", shrinkA=1, shrinkB=3, relpos=(0, 0.5))
        axes.annotate(
            f"▲ {text}" if y > high else text,
            (x, min(y, high)),
            xytext=(1.035, place),
            textcoords=axes.transAxes,
            color=colour,
            fontsize=10,
            va="center",
            arrowprops=None if y > high else line,
            annotation_clip=False,
        )


def trim_outliers(values: Sequence[float]) -> list[float]:
    """Values without those far worse (above) than the rest: the ones that an axis should be made for."""
    ordered = sorted(values)
    middle = ordered[len(ordered) // 2]
    return [value for value in ordered if value <= middle + 4 * (middle - ordered[0]) + 1e-9]


def with_margin(values: Sequence[float], margin: float) -> tuple[float, float]:
    """Limits of an axis that shows these values, with this share of their range on both sides."""
    margin *= max(values) - min(values)
    return min(values) - (margin or 0.01), max(values) + (margin or 0.01)


def spread_labels(places: list[float], gap: float) -> list[float]:
    """Sorted places in [0, 1], moved as little as needed (least squares) to be `gap` apart."""
    steps = gap * np.arange(len(places))
    return list(np.clip(isotonic_regression(places - steps).x, 0, 1 - gap * (len(places) - 1)) + steps)


def spaced_ticks(places: list[float], texts: list[str], first: list[int]) -> list[int]:
    """Indices of the ticks (at `places` in [0, 1]) whose texts do not overprint; those of `first` are preferred."""
    halves = [0.0085 * len(text) + 0.008 for text in texts]
    shown: list[int] = []
    for i in [*first, *range(len(places))]:
        if all(abs(places[i] - places[j]) >= halves[i] + halves[j] for j in shown):
            shown.append(i)
    return sorted(shown)
