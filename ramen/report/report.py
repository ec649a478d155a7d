"""compare: run folders in, a believable comparison out."""

import math
import os
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from ramen.errors import DataError
from ramen.report import page, tables
from ramen.report.fairness import tokenizers_differ, unfairness
from ramen.report.formatting import cell_of_csv, one_line
from ramen.report.grouping import default_by, find_baseline, group, parse_by, suggestion
from ramen.report.method import LOSS, LR, PER_BYTE, LrCurve, Method, lr_curves
from ramen.runs.read import Run, read_runs

Folder = str | os.PathLike[str]


@dataclass
class Report:
    """A comparison: data frames for further work, and sentences for the reader.

    `runs` has a row for each run, `ranking` for each method (best first, differences are method minus baseline),
    `targets` the cost to the target loss, `learning_rates` the tuning, `left_out` the runs without a place in a mean.
    `paths` maps report.html, report.md and runs.csv's names (without suffix) and the pictures' to the files written.
    """

    answer: str
    setup: list[str]
    warnings: list[str]
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
    methods: list[Method] = field(repr=False)
    notes: list[str] = field(default_factory=list)
    paths: dict[str, Path] = field(default_factory=dict)

    @property
    def picture(self) -> Path | None:
        """The picture to look at first."""
        return next((self.paths[name] for name in ("loss_by_tokens", "loss_by_steps") if name in self.paths), None)

    def write(self, out: Folder) -> None:
        """Write report.html, report.md, runs.csv and the pictures into the folder `out`. Errors: OSError."""
        from ramen.report.figures import draw  # here: matplotlib takes a second

        out = Path(out)
        out.mkdir(parents=True, exist_ok=True)
        base = next(method for method in self.methods if method.label == self.baseline)
        pictures = draw(self.ranking, self.methods, base, self.lr_curves, out)
        self.paths = pictures | {"report": out / "report.html", "markdown": out / "report.md", "runs": out / "runs.csv"}
        self.paths["markdown"].write_text(page.render(self, "md", pictures), encoding="utf-8")
        self.paths["report"].write_text(page.render(self, "html", pictures), encoding="utf-8")
        self.runs.map(cell_of_csv).rename(columns=cell_of_csv).to_csv(self.paths["runs"], index=False)


def compare(
    folders: Folder | Iterable[Folder],
    *,
    by: str | Iterable[str] | None = None,
    baseline: str | None = None,
    out: Folder | None = None,
    metric: str | None = None,
    target: float | None = None,
) -> Report:
    """Compare the runs below `folders`; write the report to `out` if it is given.

    `by`: config groups or dotted config keys whose values make a method (default: what varies besides seed and
    learning rate). `baseline`: a method's label or key=value. `metric`: a number of the runs' summaries (default:
    final_val_loss, or final_val_bits_per_byte where tokenizers differ). `target`: validation loss in nats a token
    (default: the baseline's final one). Errors: DataError for no runs, an unknown key,
    metric or baseline; OSError if `out` cannot be written.
    """
    tops = [Path(folders)] if isinstance(folders, str | os.PathLike) else [Path(folder) for folder in folders]
    runs, skipped = read_runs(tops)
    _check(metric or LOSS, target, runs)
    keys = parse_by(by, runs) or default_by(runs)
    methods = group(runs, keys, metric or LOSS)
    finished = [run for method in methods for run in method.chosen_runs.values()]
    if metric is None and tokenizers_differ(methods) and all(math.isfinite(run.metric(PER_BYTE)) for run in finished):
        methods = group(runs, keys, PER_BYTE)
    base, base_note = find_baseline(baseline, methods, keys)
    curves = lr_curves(group(runs, [key for key in keys if key != LR], base.metric) if LR in keys else methods)
    findings = unfairness(methods, keys, curves)
    ranking = tables.ranking_table(methods, base, findings)
    options = {"by": ",".join(keys) if by else None, "baseline": baseline, "metric": metric, "target": target}
    given = [f"--{name}={value}" for name, value in options.items() if value is not None]
    apart = set(ranking[~ranking["comparable"]]["method"])
    command = shlex.join(["ramen", "compare", *map(str, tops), *given])
    report = Report(
        answer=one_line(page.answer(ranking, base, len(runs))),
        setup=[*map(one_line, page.setup(methods, command))],
        warnings=[*map(one_line, [*(finding.text for finding in findings), *skipped])],
        by=keys,
        baseline=base.label,
        metric=base.metric,
        target_text=page.target_text(base, target),
        runs=(table := tables.runs_table(methods, keys)),
        ranking=ranking,
        targets=tables.targets_table([m for m in methods if m.label not in apart], base, target),
        learning_rates=pd.concat([curve.points for curve in curves], ignore_index=True) if curves else pd.DataFrame(),
        left_out=tables.left_out_table(table),
        lr_curves=curves,
        methods=methods,
    )
    report.notes = page.notes(report, by is None, base_note)
    if out is not None:
        report.write(out)
    return report


def _check(metric: str, target: float | None, runs: list[Run]) -> None:
    known = {name for run in runs for name in run.summary}
    if metric not in known and any(run.status == "finished" for run in runs):
        raise DataError(f"--metric: no run's summary has the number, got {metric!r}; {suggestion(metric, known)}")
    if target is not None and not (math.isfinite(target) and target > 0):
        raise DataError(f"--target: must be a positive loss in nats a token, got {target}")
