"""compare: run folders in, a believable comparison out."""

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from ramen.errors import DataError
from ramen.report import html, narrative, tables
from ramen.report.document import document
from ramen.report.fairness import unfairness
from ramen.report.figures import draw
from ramen.report.grouping import find_baseline, group
from ramen.report.keys import default_by, parse_by, suggestion
from ramen.report.method import LR, Method
from ramen.report.target import targets_table
from ramen.report.tuning import LrCurve, lr_curves
from ramen.runs.find import read_runs
from ramen.runs.read import Run

Folder = str | os.PathLike[str]


@dataclass
class Report:
    """A comparison: data frames for further work, sentences for the reader, and the files written.

    `runs` has a row for each run, `ranking` for each method (best first, differences are method minus baseline),
    `targets` the cost to the target loss, `learning_rates` the tuning, `left_out` the runs without a place in a mean.
    `paths` maps report.html, report.md and runs.csv's names (without suffix) and the pictures' to their files.
    """

    answer: str
    warnings: list[str]
    notes: list[str]
    by: list[str]
    baseline: str
    metric: str
    target_text: str
    runs: pd.DataFrame
    ranking: pd.DataFrame
    targets: pd.DataFrame
    learning_rates: pd.DataFrame
    left_out: pd.DataFrame
    lr_curves: list[LrCurve]
    paths: dict[str, Path] = field(default_factory=dict)

    @property
    def picture(self) -> Path | None:
        """The picture to look at first."""
        return next((self.paths[name] for name in ("loss_by_tokens", "loss_by_steps") if name in self.paths), None)


def compare(
    folders: Folder | Iterable[Folder],
    *,
    by: str | Iterable[str] | None = None,
    baseline: str | None = None,
    out: Folder | None = None,
    metric: str = "final_val_loss",
    target: float | None = None,
) -> Report:
    """Compare the runs below `folders`; write the report to `out` (default: the first folder).

    `by`: config groups or dotted config keys whose values make a method (default: what varies besides seed and
    learning rate). `baseline`: a method's label or key=value. `metric`: a number of summary.json. `target`: validation
    loss in nats a token (default: the baseline's final one). Errors: DataError for no runs, an unknown key, metric or
    baseline; OSError if `out` cannot be written.
    """
    tops = [Path(folders)] if isinstance(folders, str | os.PathLike) else [Path(folder) for folder in folders]
    runs, skipped = read_runs(tops)
    _check(metric, target, runs)
    keys = parse_by(by, runs) or default_by(runs)
    methods = group(runs, keys, metric)
    base, base_note = find_baseline(baseline, methods, keys)
    curves = lr_curves(group(runs, [key for key in keys if key != LR], metric) if LR in keys else methods)
    ranking = tables.ranking_table(methods, base, metric)
    report = Report(
        answer=narrative.answer(ranking, base, metric, len(runs)),
        warnings=[*unfairness(methods, keys, curves), *skipped],
        notes=narrative.notes(keys, by is None, base_note, base, methods, metric),
        by=keys,
        baseline=base.label,
        metric=metric,
        target_text=narrative.target_text(base, target),
        runs=tables.runs_table(methods, keys),
        ranking=ranking,
        targets=targets_table(methods, base, target),
        learning_rates=tables.lr_table(curves),
        left_out=tables.left_out_table(methods),
        lr_curves=curves,
    )
    _write(report, methods, base, Path(out) if out is not None else tops[0])
    return report


def _check(metric: str, target: float | None, runs: list[Run]) -> None:
    known = {name for run in runs for name in run.summary}
    if metric not in known and any(run.status == "finished" for run in runs):
        raise DataError(f"--metric: no run's summary.json has the number, got {metric!r}; {suggestion(metric, known)}")
    if target is not None and not (math.isfinite(target) and target > 0):
        raise DataError(f"--target: must be a positive loss in nats a token, got {target}")


def _write(report: Report, methods: list[Method], base: Method, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    report.paths |= draw(report.ranking, methods, base, report.lr_curves, out)
    report.paths |= {"report": out / "report.html", "markdown": out / "report.md", "runs": out / "runs.csv"}
    text = document(report)
    report.paths["markdown"].write_text(text, encoding="utf-8", errors="backslashreplace")
    report.paths["report"].write_text(html.render(text, out), encoding="utf-8", errors="backslashreplace")
    report.runs.to_csv(report.paths["runs"], index=False)
