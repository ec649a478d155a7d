"""Loss against steps, tokens or seconds, zoomed to where methods differ."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from ramen.report import canvas
from ramen.report.curves import Band

START = 0.35  # this first share of training sets no limit of the y axis: every method falls steeply there
UNITS = {"steps": "optimizer steps", "tokens": "training tokens"}
LOSSES = {"val_loss": "validation loss (nats a token)", "train_loss": "training loss (nats a token)"}


def draw_loss(bands: list[Band], axis: str, loss: str, colours: dict[str, str]) -> Figure:
    """The picture of `bands` (best first) against `axis` (steps, tokens, seconds)."""
    figure, axes = canvas.sheet()
    divisor, unit = _seconds_unit(bands) if axis == "seconds" else (1.0, UNITS[axis])
    for band in reversed(bands):  # the best on top
        x, colour = band.x / divisor, colours[band.label]
        axes.plot(x, band.mean, color=colour, linewidth=1.9, solid_capstyle="round")
        if band.seeds > 1:
            axes.fill_between(x, band.mean - band.sd, band.mean + band.sd, color=colour, alpha=0.13, linewidth=0)
    low, high = limits(bands)
    axes.set_ylim(low, high)
    axes.set_xlim(0.8 * entrance(bands, high) / divisor, max(band.x[-1] for band in bands) / divisor)
    if axis != "seconds":
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    fewest, most = min(band.seeds for band in bands), max(band.seeds for band in bands)
    seeds = f"mean ± sd over {most if fewest == most else f'{fewest} to {most}'} seeds" if most > 1 else "one seed"
    canvas.title(axes, f"Loss against {axis}, {seeds}", unit, LOSSES[loss])
    ends = [
        (f"{b.label}  {float(b.mean[-1]):.3f}", colours[b.label], float(b.x[-1]) / divisor, float(b.mean[-1]))
        for b in bands
    ]
    canvas.label_ends(axes, ends)
    return figure


def limits(bands: list[Band]) -> tuple[float, float]:
    """From the lowest band to what the typical method has after the first part of training; a method whose end is far
    above the others may leave the picture (its label then points upwards)."""
    low = min(float(np.nanmin(band.mean - np.nan_to_num(band.sd))) for band in bands)
    early = float(np.median([np.interp(START * band.x[-1], band.x, band.mean) for band in bands]))
    high = max(early, *canvas.usual([float(band.mean[-1]) for band in bands]))
    margin = 0.04 * (high - low) or 0.01
    return low - margin, high + margin


def entrance(bands: list[Band], high: float) -> float:
    """Where the first curve comes below `high`."""
    return min(float(band.x[np.argmax(band.mean <= high)]) for band in bands if (band.mean <= high).any())


def _seconds_unit(bands: list[Band]) -> tuple[float, str]:
    longest = max(float(band.x[-1]) for band in bands)
    if longest > 7200:
        return 3600.0, "training hours"
    return (60.0, "training minutes") if longest > 300 else (1.0, "training seconds")
