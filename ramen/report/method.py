"""A method: one group of runs under comparison, sorted into settings (learning rate ...) and seeds, and how it was tuned."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

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


@dataclass
class Method:
    """Runs that share the values of the grouping keys.

    `settings` holds the finished runs with a finite metric, by setting and by seed; `chosen` is the setting shown.
    """

    label: str
    values: tuple[Value, ...]
    runs: list[Run]
    metric: str
    settings: dict[Setting, dict[Seed, Run]] = field(default_factory=dict)
    tried: list[Setting] = field(default_factory=list)  # settings with a finished or a diverged run
    chosen: Setting | None = None
    chosen_runs: dict[Seed, Run] = field(default_factory=dict)  # of the chosen setting, by seed
    repeats: int = 0  # finished runs replaced by a newer run of the same setting and seed
    only_fresh: bool = False  # `chosen_runs` are the seeds that the setting was not chosen on

    def sort(self, keys: list[str]) -> None:
        """Sort the runs into settings of these keys. Of two runs of one setting and seed the last by folder name counts."""
        for run in self.runs:
            setting = tuple((key, run.value(key)) for key in keys)
            if setting not in self.tried and (self.usable(run) or run.status == "diverged"):
                self.tried.append(setting)
            if self.usable(run):
                by_seed = self.settings.setdefault(setting, {})
                self.repeats += run.pairing in by_seed
                by_seed[run.pairing] = run
        self.chosen = self.best(self.settings)
        self.chosen_runs = {} if self.chosen is None else self.settings[self.chosen]

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

        return min(settings, key=rank, default=None)

    def spread(self, setting: Setting) -> Spread:
        return spread(run.metric(self.metric) for run in self.settings[setting].values())

    @property
    def luck(self) -> float:
        """How much the mean score owes to the choice of the setting on the same seeds (see `luck_of_choice`)."""
        if self.only_fresh:
            return 0.0
        others = [runs for setting, runs in self.settings.items() if setting != self.chosen]
        return luck_of_choice(self.scores, [{s: run.metric(self.metric) for s, run in runs.items()} for runs in others])

    @property
    def scores(self) -> dict[Seed, float]:
        """The metric by seed at the chosen setting."""
        return {seed: run.metric(self.metric) for seed, run in self.chosen_runs.items()}

    @property
    def lr(self) -> float | None:
        """The learning rate of the chosen setting."""
        return lr_in(self.chosen)

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


class LrPoint(NamedTuple):
    """One learning rate of one method: the best setting at that rate (NaN mean if every run diverged)."""

    method: str
    lr: float
    mean: float
    sd: float
    n: int
    diverged: int  # runs at this rate that diverged
    chosen: bool  # the rate shown


class LrCurve(NamedTuple):
    """Metric against learning rate; `remark` is one sentence on the tuning, `flaw` "edge", "single" or nothing."""

    label: str
    points: list[LrPoint]  # by increasing learning rate
    remark: str
    flaw: str


def lr_curves(methods: list[Method]) -> list[LrCurve]:
    return [LrCurve(m.label, points, *_remark(m, points)) for m in methods if (points := _points(m))]


def lr_in(setting: Setting | None) -> float | None:
    value = dict(setting or ()).get(LR)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _points(method: Method) -> list[LrPoint]:
    points = []
    for lr in sorted({lr for setting in method.tried if (lr := lr_in(setting)) is not None}):
        best = method.best(setting for setting in method.settings if lr_in(setting) == lr)
        at_best = spread([]) if best is None else method.spread(best)
        diverged = sum(run.status == "diverged" and run.value(LR) == lr for run in method.runs)
        points.append(LrPoint(method.label, lr, *at_best, diverged, lr == method.lr))
    return points


def _remark(method: Method, points: list[LrPoint]) -> tuple[str, str]:
    """Edge: the best rate is the smallest or largest tried, diverged rates included (divergence bounds the grid)."""
    if method.lr is None:
        return f"{method.label}: no learning rate led to a finished run.", ""
    best, low, high = map(value_text, (method.lr, points[0].lr, points[-1].lr))
    if len(points) == 1:
        return f"{method.label}: only one learning rate tried ({best}); whether it is tuned is unknown.", "single"
    text, tried = f"{method.label}: best learning rate {best}", f"{len(points)} tried, {low} to {high}"
    if best not in (low, high):
        return f"{text} lies inside the grid ({tried}).", ""
    side, direction = ("smallest", "lower") if best == low else ("largest", "higher")
    text += f" is on the edge of the grid ({side} of {tried}); a {direction} one may be better,"
    return f"{text} so the method is not shown at its best.", "edge"
