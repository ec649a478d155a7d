"""Tokens and seconds until a target validation loss, and the speed-up over the baseline.

The target is a number, or the loss at which the baseline's run of the same seed ends (the mean over its seeds where a
method has seeds that the baseline lacks). A run's cost is where its validation curve first reaches the target, linear
between evaluations; the baseline is measured by the same rule. A run that does not get there has no cost:
nothing is extrapolated.
"""

import math

import numpy as np
import pandas as pd

from ramen.report.method import Method
from ramen.report.statistics import NAN, ratio, spread

Seed = int | str
COSTS = ("tokens", "seconds")


def crossing(x: np.ndarray, loss: np.ndarray, target: float) -> float:
    """The x at which `loss` first is at or below `target`, interpolated; NaN if never. Loss at the first point
    already below the target: that first x, an upper bound."""
    below = np.flatnonzero(loss <= target)
    if not len(below):
        return NAN
    i = int(below[0])
    if i == 0:
        return float(x[0])
    share = (loss[i - 1] - target) / (loss[i - 1] - loss[i])
    return float(x[i - 1] + share * (x[i] - x[i - 1]))


def targets_by_seed(baseline: Method, target: float | None) -> tuple[dict[Seed, float], float]:
    """The target of each of the baseline's seeds, and the one for all other seeds."""
    if target is not None:
        return {}, target
    curves = {seed: run.curve.series("step", "val_loss")[1] for seed, run in baseline.chosen_runs.items()}
    finals = {seed: float(losses[-1]) for seed, losses in curves.items() if len(losses)}
    return finals, spread(list(finals.values())).mean


def targets_table(methods: list[Method], baseline: Method, target: float | None) -> pd.DataFrame:
    """One row a method with an evaluation curve: costs (means over seeds, NaN unless every seed reached the target) and
    speed-ups (baseline's cost over the method's, geometric mean over seeds) with their intervals."""
    by_seed, fallback = targets_by_seed(baseline, target)
    if math.isnan(fallback):
        return pd.DataFrame()
    costs = {m.label: {x: _costs(m, x, by_seed, fallback) for x in COSTS} for m in methods}
    rows = []
    for method in methods:
        own = costs[method.label]
        if known := own["tokens"] or own["seconds"]:
            reached = sum(not math.isnan(cost) for cost in known.values())
            row = {"method": method.label, "reached": reached, "seeds": len(known)}
            row |= {x: spread(list(own[x].values())).mean for x in COSTS}
            for x in COSTS:
                speedup = _speedup({} if method is baseline else costs[baseline.label][x], own[x])
                row |= zip((f"speedup_{x}", f"speedup_{x}_low", f"speedup_{x}_high"), speedup, strict=True)
            rows.append(row)
    return pd.DataFrame(rows)


def _costs(method: Method, x: str, by_seed: dict[Seed, float], fallback: float) -> dict[Seed, float]:
    curves = {seed: run.curve.series(x, "val_loss") for seed, run in method.chosen_runs.items()}
    return {seed: crossing(xs, losses, by_seed.get(seed, fallback)) for seed, (xs, losses) in curves.items() if len(xs)}


def _speedup(base: dict[Seed, float], costs: dict[Seed, float]) -> tuple[float, float, float]:
    values = [*base.values(), *costs.values()]
    if not base or not costs or any(math.isnan(v) or v <= 0 for v in values):
        return NAN, NAN, NAN
    found = ratio(base, costs)
    return found.mean, found.low, found.high
