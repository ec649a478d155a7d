"""A method: one group of runs under comparison, sorted into settings (learning rate ...) and seeds, and how it was tuned."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd

from ramen.report.formatting import value_text
from ramen.report.statistics import Spread, luck_of_choice, spread
from ramen.runs.read import Run, Value

LR = "optimizer.lr"
LOSS, PER_BYTE = "final_val_loss", "final_val_bits_per_byte"
MOST_DRAWN = 9  # methods in a picture: eight colours and the baseline's
LEAST_SEEDS = 3  # for a verdict without reserve
HIGHER_IS_BETTER = {"tokens_per_second", "mfu"}
COST_METRICS = {"tokens_per_second", "mfu", "train_seconds", "peak_memory", "evaluation_seconds", "compile_seconds"}

Seed = int | str
Setting = tuple[tuple[str, Value], ...]  # the values a method was tuned over, for example (("optimizer.lr", 0.02),)


class Method:
    """Runs that share the values of the grouping keys.

    `settings` holds the finished runs with a finite metric by setting and seed, and no run of a setting where all diverged;
    `chosen` is the setting shown, `chosen_runs` its runs (`only_fresh`: those at seeds that it was not chosen on).
    """

    def __init__(self, label: str, values: tuple[Value, ...], runs: list[Run], metric: str, keys: list[str]):
        self.label, self.values, self.runs, self.metric = label, values, runs, metric
        self.settings: dict[Setting, dict[Seed, Run]] = {}
        self.repeats = 0  # finished runs replaced by a newer run of the same setting and seed
        for run in runs:  # the last by folder name counts
            if self.usable(run) or run.status == "diverged":
                by_seed = self.settings.setdefault(tuple((key, run.value(key)) for key in keys), {})
                if self.usable(run):
                    self.repeats += run.pairing in by_seed
                    by_seed[run.pairing] = run
        self.chosen = self.best(self.settings)
        self.chosen_runs = {} if self.chosen is None else self.settings[self.chosen]
        self.only_fresh = False

    @property
    def fresh_runs(self) -> dict[Seed, Run]:
        """Runs of the chosen setting at seeds that no other setting ran on: the choice has not seen them."""
        seen = {run.pairing for run in self.runs if any(run.value(key) != value for key, value in self.chosen or ())}
        return {seed: run for seed, run in self.chosen_runs.items() if seed not in seen}

    def usable(self, run: Run) -> bool:
        return run.status == "finished" and math.isfinite(run.metric(self.metric))

    def best(self, settings: Iterable[Setting]) -> Setting | None:
        """The setting with the best mean among those with the most finished seeds; None of none.

        A setting whose other seeds diverged, or that was tried on one lucky seed, cannot win by its survivors.
        """
        sign = -1 if self.metric in HIGHER_IS_BETTER else 1

        def rank(setting: Setting) -> tuple[int, float]:
            return -len(self.settings[setting]), sign * self.spread(setting).mean

        return min((setting for setting in settings if self.settings[setting]), key=rank, default=None)

    def spread(self, setting: Setting | None) -> Spread:
        return spread(self._scores(self.settings[setting] if setting is not None else {}).values())

    @property
    def luck(self) -> float:
        """How much the mean score owes to the choice of the setting on the same seeds (see `luck_of_choice`)."""
        others = [runs for setting, runs in self.settings.items() if setting != self.chosen]
        return luck_of_choice(self.scores, [self._scores(runs) for runs in others])

    @property
    def scores(self) -> dict[Seed, float]:
        """The metric by seed at the chosen setting."""
        return self._scores(self.chosen_runs)

    def _scores(self, runs: dict[Seed, Run]) -> dict[Seed, float]:
        return {seed: run.metric(self.metric) for seed, run in runs.items()}

    @property
    def setting_text(self) -> str:
        """`lr=0.02`, with the first other values the method was tuned over; the rest is in runs.csv."""
        parts = [f"{key.removeprefix('optimizer.')}={value_text(value)}" for key, value in self.chosen or ()]
        return ", ".join(parts[:4]) + (" ..." if len(parts) > 4 else "")

    def losses(self, run: Run, axis: str, kind: str = "val_loss") -> tuple[np.ndarray, np.ndarray]:
        """A run's loss against `axis`: nats a token, or bits a byte where methods are ranked by those."""
        x, loss = run.curve.series(axis, kind)
        return (x, loss * run.metric(PER_BYTE) / run.metric(LOSS)) if self.metric == PER_BYTE else (x, loss)

    def count(self, status: str) -> int:
        return sum(run.status == status for run in self.runs)


class LrCurve(NamedTuple):
    """Metric against learning rate; `remark` is one sentence on the tuning, `flaw` "edge", "single" or nothing.

    `points`, by increasing rate: method, lr; mean, sd and n of the best setting at that rate (NaN and 0 if every run
    diverged); the number of runs that diverged; chosen: the rate shown.
    """

    label: str
    points: pd.DataFrame
    remark: str
    flaw: str


def lr_in(setting: Setting | None) -> float | None:
    value = dict(setting or ()).get(LR)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def lr_curves(methods: list[Method]) -> list[LrCurve]:
    """The curves of the methods of which a learning rate is known."""
    curves = []
    for method in methods:
        rates, shown, points = {setting: lr_in(setting) for setting in method.settings}, lr_in(method.chosen), []
        for lr in sorted({lr for lr in rates.values() if lr is not None}):
            best = method.spread(method.best(setting for setting in rates if rates[setting] == lr))
            diverged = sum(run.status == "diverged" and run.value(LR) == lr for run in method.runs)
            points.append(
                {"method": method.label, "lr": lr, **best._asdict(), "diverged": diverged, "chosen": lr == shown}
            )
        if points:
            remark, flaw = _remark([point["lr"] for point in points], shown)
            curves.append(LrCurve(method.label, pd.DataFrame(points), f"{method.label}: {remark}", flaw))
    return curves


def _remark(rates: list[float], shown: float | None) -> tuple[str, str]:
    """Edge: the best rate is the smallest or largest tried, diverged rates included (divergence bounds the grid)."""
    if shown is None:
        return "no learning rate led to a finished run.", ""
    best, low, high = map(value_text, (shown, rates[0], rates[-1]))
    if len(rates) == 1:
        return f"only one learning rate tried ({best}); whether it is tuned is unknown.", "single"
    if best not in (low, high):
        return f"best learning rate {best} lies inside the grid ({len(rates)} tried, {low} to {high}).", ""
    side, direction = ("smallest", "lower") if best == low else ("largest", "higher")
    text = f"best learning rate {best} is on the edge of the grid ({side} of {len(rates)} tried, {low} to {high})"
    return f"{text}; a {direction} one may be better, so the method is not shown at its best.", "edge"
