"""A method: one group of runs under comparison, sorted into settings (learning rate ...) and seeds."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from ramen.report.statistics import Spread, spread
from ramen.runs.read import Run, Value

LR = "optimizer.lr"
HIGHER_IS_BETTER = {"tokens_per_second", "mfu"}

Setting = tuple[tuple[str, Value], ...]  # the values a method was tuned over, for example (("optimizer.lr", 0.02),)


@dataclass
class Method:
    """Runs that share the values of the grouping keys.

    `cells` holds the finished runs with a finite metric, by setting and by seed; `chosen` is the setting shown.
    """

    label: str
    values: tuple[Value, ...]
    runs: list[Run]
    metric: str
    cells: dict[Setting, dict[int | str, Run]] = field(default_factory=dict)
    tried: list[Setting] = field(default_factory=list)  # settings with a finished or a diverged run
    chosen: Setting | None = None
    repeats: int = 0  # finished runs replaced by a newer run of the same setting and seed

    @property
    def chosen_runs(self) -> dict[int | str, Run]:
        return self.cells[self.chosen] if self.chosen is not None else {}

    @property
    def scores(self) -> dict[int | str, float]:
        """The metric by seed at the chosen setting."""
        return {seed: run.metric(self.metric) for seed, run in self.chosen_runs.items()}

    @property
    def setting_text(self) -> str:
        """`lr=0.02`, with the first other values the method was tuned over; the rest is in runs.csv."""
        parts = [f"{key.removeprefix('optimizer.')}={value_text(value)}" for key, value in self.chosen or ()]
        return ", ".join(parts[:4]) + (" ..." if len(parts) > 4 else "")

    def count(self, status: str) -> int:
        return sum(run.status == status for run in self.runs)


def usable(run: Run, metric: str) -> bool:
    return run.status == "finished" and math.isfinite(run.metric(metric))


def sort_into_cells(method: Method, setting_keys: list[str]) -> None:
    """Fill `cells`, `tried` and `chosen`. Of two runs of one setting and seed the last by folder name counts."""
    for run in method.runs:
        setting = tuple((key, run.value(key)) for key in setting_keys)
        if setting not in method.tried and (usable(run, method.metric) or run.status == "diverged"):
            method.tried.append(setting)
        if usable(run, method.metric):
            cell = method.cells.setdefault(setting, {})
            method.repeats += run.pairing in cell
            cell[run.pairing] = run
    method.chosen = best_setting(method, method.cells)


def best_setting(method: Method, settings: Iterable[Setting]) -> Setting | None:
    """Of these settings of its cells that with the best mean, among those with the most finished seeds: a setting whose
    other seeds diverged, or that was tried on one lucky seed, cannot win by its survivors. None of none."""
    seeds = {setting: len(method.cells[setting]) for setting in settings}
    most = max(seeds.values(), default=0)
    sign = -1 if method.metric in HIGHER_IS_BETTER else 1
    full = [setting for setting, n in seeds.items() if n == most]
    return min(full, key=lambda setting: sign * cell_spread(method, setting).mean, default=None)


def cell_spread(method: Method, setting: Setting) -> Spread:
    return spread([run.metric(method.metric) for run in method.cells[setting].values()])


def value_text(value: Value) -> str:
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    return f"{value:.12g}" if isinstance(value, float) else str(value)
