"""The comparison of run folders, and its page.

prose.jinja holds the sentences, page.jinja the order of the page, html.jinja and md.jinja the markup of each kind.
"""

import base64
import math
import os
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from jinja2 import Environment, PackageLoader

from ramen.errors import DataError
from ramen.report import formatting, grouping, tables
from ramen.report.fairness import fact, tokenizers_differ, unfairness
from ramen.report.formatting import cell_of_csv, large, listed, one_line, rows
from ramen.report.grouping import LOSS, LR, PER_BYTE, LrCurve, Method
from ramen.runs.read import Run, read_runs

MOST_ROWS = 60  # of a table
Folder = str | os.PathLike[str]


@dataclass
class Report:
    """A comparison: data frames for further work, and sentences for the reader.

    `runs` has a row for each run, `ranking` for each method (best first, differences are method minus baseline),
    `targets` the cost to the target loss, `learning_rates` the tuning, `left_out` the runs without a place in a mean.
    `paths` maps report.html, report.md and runs.csv's names (without suffix) and the pictures' to the files written.
    """

    by: list[str]
    baseline: str
    metric: str
    runs: pd.DataFrame
    ranking: pd.DataFrame
    targets: pd.DataFrame
    learning_rates: pd.DataFrame
    left_out: pd.DataFrame
    lr_curves: list[LrCurve]
    methods: list[Method] = field(repr=False)
    warnings: list[str]
    answer: str = ""
    setup: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    target_text: str = ""
    paths: dict[str, Path] = field(default_factory=dict)

    def write(self, out: Folder) -> None:
        """Write report.html, report.md, runs.csv and the pictures into the folder `out`. Errors: OSError."""
        from ramen.report.figures import draw  # matplotlib takes a second to import

        out = Path(out)
        out.mkdir(parents=True, exist_ok=True)
        pictures = draw(self.ranking, self.methods, self.baseline, self.lr_curves, out)
        self.paths = pictures | {"report": out / "report.html", "markdown": out / "report.md", "runs": out / "runs.csv"}
        self.paths["markdown"].write_text(render(self, "md", pictures), encoding="utf-8")
        self.paths["report"].write_text(render(self, "html", pictures), encoding="utf-8")
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
    keys = grouping.parse_by(by, runs) or grouping.default_by(runs)
    methods = grouping.group(runs, keys, metric or LOSS)
    finished = [run for method in methods for run in method.chosen_runs.values()]
    if metric is None and tokenizers_differ(methods) and all(math.isfinite(run.metric(PER_BYTE)) for run in finished):
        methods = grouping.group(runs, keys, PER_BYTE)
    base, base_note = grouping.find_baseline(baseline, methods, keys)
    tuned = grouping.group(runs, [key for key in keys if key != LR], base.metric) if LR in keys else methods
    curves = grouping.lr_curves(tuned)
    findings = unfairness(methods, keys, curves)
    ranking = tables.ranking_table(methods, base, findings)
    options = {"by": ",".join(keys) if by else None, "baseline": baseline, "metric": metric, "target": target}
    chosen = [f"--{name}={value}" for name, value in options.items() if value is not None]
    comparable = set(ranking[ranking["comparable"]]["method"])
    table = tables.runs_table(methods, keys)
    report = Report(
        by=keys,
        baseline=base.label,
        metric=base.metric,
        runs=table,
        ranking=ranking,
        targets=tables.targets_table([method for method in methods if method.label in comparable], base, target),
        learning_rates=pd.concat([curve.points for curve in curves], ignore_index=True) if curves else pd.DataFrame(),
        left_out=tables.left_out_table(table),
        lr_curves=curves,
        methods=methods,
        warnings=[*map(one_line, [*(finding.text for finding in findings), *skipped])],
    )
    command = shlex.join(["ramen", "compare", *map(str, tops), *chosen])
    facts = {"command": command, "by_default": by is None, "base_note": base_note, "target": target}
    _write_sentences(report, facts | {"mean_target": tables.targets_by_seed(base, target)[1]})
    if out is not None:
        report.write(out)
    return report


def _check(metric: str, target: float | None, runs: list[Run]) -> None:
    known = {name for run in runs for name in run.summary}
    if metric not in known and any(run.status == "finished" for run in runs):
        hint = grouping.suggestion(metric, known)
        raise DataError(f"--metric: no run's summary has the number, got {metric!r}; {hint}")
    if target is not None and not (math.isfinite(target) and target > 0):
        raise DataError(f"--target: must be a positive loss in nats a token, got {target}")


def _write_sentences(report: Report, facts: dict[str, Any]) -> None:
    """Fill in the sentences of prose.jinja, which knows these facts besides the report's own."""
    runs = [run for method in report.methods for run in method.chosen_runs.values()] or report.methods[0].runs

    def shared(name: str) -> str:
        texts = [large(n) if math.isfinite(n := run.metric(name)) else fact(name, run) or "unknown" for run in runs]
        return listed(list(dict.fromkeys(texts)), 3)

    names = vars(report) | facts | {"chosen": runs, "shared": shared, "fact": fact}
    prose: Any = _templates(finalize=one_line).get_template("prose.jinja").make_module(names)
    report.answer, report.target_text = one_line(prose.answer), one_line(prose.target_text)
    report.setup, report.notes = prose.setup.splitlines(), prose.notes.splitlines()


def render(report: Report, kind: Literal["html", "md"], pictures: dict[str, Path]) -> str:
    """The page as one HTML file or as GitHub-flavoured Markdown. `pictures`: name -> file."""
    ranking = formatting.ranking_text(report.ranking, report.metric)
    page = _templates(autoescape=kind == "html").get_template("page.jinja")
    text = page.render(report=report, ranking=ranking, pictures=pictures, kind=kind)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def line(text: str) -> str:
    """Markdown that shows `text` as it is: one line, no markup, its beginning no list, heading, quote or fence."""
    return re.sub(r"^(\d+(?=[.)])|(?=[-+#>]))", r"\1\\", _inline(text))


def _templates(**options: Any) -> Environment:
    loader, extensions = PackageLoader("ramen.report", ""), ["jinja2.ext.do"]
    templates = Environment(loader=loader, trim_blocks=True, lstrip_blocks=True, extensions=extensions, **options)
    names = ("duration", "large", "listed", "loss", "memory", "one_line", "p_text", "speedup")
    templates.filters |= {name: getattr(formatting, name) for name in names}
    templates.filters |= {"line": line, "cell": _cell, "embedded": _embedded}
    templates.tests["nan"] = math.isnan
    templates.globals |= {"rows": rows, "most_rows": MOST_ROWS, "most_drawn": grouping.MOST_DRAWN}
    templates.globals |= {"least_seeds": grouping.LEAST_SEEDS, "higher_is_better": grouping.HIGHER_IS_BETTER}
    return templates


def _cell(text: object) -> str:
    return _inline(text).replace("|", "\\|")


def _inline(text: object) -> str:
    return re.sub(r"[\\`*_~<\[&]", r"\\\g<0>", one_line(text))


def _embedded(picture: Path) -> str:
    """The picture as a data address, so that the page is one file."""
    return "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode("ascii")
