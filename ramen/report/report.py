"""compare: run folders in, a believable comparison out, and its words.

page.jinja tells what stands where on the page, html.jinja and md.jinja how that is written, notes.jinja holds the notes.
"""

import base64
import math
import os
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pandas as pd
from jinja2 import Environment, PackageLoader

from ramen.errors import DataError
from ramen.report import formatting, grouping, tables
from ramen.report.fairness import fact, tokenizers_differ, unfairness
from ramen.report.formatting import cell_of_csv, large, listed, loss, one_line, p_text, rows
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
        from ramen.report.figures import draw  # matplotlib takes a second to import

        out = Path(out)
        out.mkdir(parents=True, exist_ok=True)
        base = next(method for method in self.methods if method.label == self.baseline)
        pictures = draw(self.ranking, self.methods, base, self.lr_curves, out)
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
    apart = set(ranking[~ranking["comparable"]]["method"])
    command = shlex.join(["ramen", "compare", *map(str, tops), *chosen])
    report = Report(
        answer=one_line(answer(ranking, base, len(runs))),
        setup=[*map(one_line, setup(methods, command))],
        warnings=[*map(one_line, [*(finding.text for finding in findings), *skipped])],
        by=keys,
        baseline=base.label,
        metric=base.metric,
        target_text=target_text(base, target),
        runs=(table := tables.runs_table(methods, keys)),
        ranking=ranking,
        targets=tables.targets_table([m for m in methods if m.label not in apart], base, target),
        learning_rates=pd.concat([curve.points for curve in curves], ignore_index=True) if curves else pd.DataFrame(),
        left_out=tables.left_out_table(table),
        lr_curves=curves,
        methods=methods,
    )
    report.notes = notes(report, by is None, base_note)
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


def answer(ranking: pd.DataFrame, base: Method, runs: int) -> str:
    """The result in one sentence: the best method, or the next one where the baseline is the best."""
    ranked = ranking[ranking["n"] > 0]
    if not len(ranked):
        return f"None of {runs} runs finished with a finite {base.metric}: nothing can be compared."
    apart = [f"{r.method} ({r.verdict.removeprefix('no verdict: ')})" for r in rows(ranked[~ranked["comparable"]])]
    rest = f"No verdict against {base.label} on {listed(apart, 3)}." if apart else ""
    ranked = ranked[ranked["comparable"]]
    return rest if apart and len(ranked) < 2 else f"{_best(ranked, base)} {rest}".strip()


def _best(ranked: pd.DataFrame, base: Method) -> str:
    best = ranked.iloc[0]
    text = f"{best['method']} has the {'highest' if base.metric in grouping.HIGHER_IS_BETTER else 'lowest'} {base.metric}: "
    text += f"{loss(best['mean'])} (n = {best['n']})"
    if best["verdict"] == "baseline":
        if len(ranked) == 1:
            return f"{text}. There is nothing to compare it with."
        best, text = ranked.iloc[1], f"{text}, and it is the baseline. Next is {ranked.iloc[1]['method']}"
    if math.isnan(best["difference"]):
        return f"{text}. The baseline {base.label} has no finished run, so there is no difference to report."
    text += f", {loss(best['difference'], '+')} against {base.label}"
    if math.isnan(best["low"]):
        return f"{text} ({best['verdict'] or 'no uncertainty'})."
    pairing = f"paired over {best['pairs']} seeds" if best["test"] == "paired" else "seeds not paired, Welch's test"
    text += f", 95 % interval {loss(best['low'], '+')} to {loss(best['high'], '+')} ({pairing}; "
    text += f"{p_text(best['p_holm'], 'p')} after Holm's correction): {best['verdict']}"
    needed = best["verdict"] == "no clear difference" and best["seeds_needed"] > best["pairs"]
    return (
        f"{text}; a difference of this size would take {formatting.seeds(best['seeds_needed'])}."
        if needed
        else f"{text}."
    )


def setup(methods: list[Method], command: str) -> list[str]:
    """Sentences on what was run: model, budget, data, code, date, machine, and the command of this report."""
    runs = [run for method in methods for run in method.chosen_runs.values()] or methods[0].runs

    def shared(name: str) -> str:
        texts = [large(n) if math.isfinite(n := run.metric(name)) else fact(name, run) or "unknown" for run in runs]
        return listed(list(dict.fromkeys(texts)), 3)

    dates = [date for run in runs if (date := run.facts.get("started"))]
    return [
        f"Model: {shared('model.layers')} layers of width {shared('model.dim')}, {shared('parameters')} parameters",
        f"Budget: {shared('tokens')} training tokens in {shared('steps')} steps",
        f"Data: {listed(list(dict.fromkeys(map(_data, runs))), 3)}",
        f"Code: commit {shared('git_commit')}",
        f"Date: {' to '.join(dict.fromkeys([min(dates), max(dates)])) if dates else 'not recorded'}",
        f"Machine: {shared('device')}; {shared('threads')} threads, torch {shared('versions.torch')}",
        f"Command: {command}",
    ]


def target_text(base: Method, target: float | None) -> str:
    """The target loss in words; empty if there is none."""
    if target is not None:
        return f"Target: validation loss {target:g}."
    by_seed, mean = tables.targets_by_seed(base, None)
    text = f"Target: the final validation loss of {base.label} at the same seed (mean {loss(mean)})."
    return text if by_seed else ""


def notes(report: Report, by_default: bool, base_note: str) -> list[str]:
    """Sentences on how the numbers were made. `by_default`: the grouping was not given."""
    text = _templates(html=False).get_template("notes.jinja").render(vars())
    return [one_line(note) for note in text.splitlines() if note]


def render(report: Report, kind: Literal["html", "md"], pictures: dict[str, Path]) -> str:
    """The page as one HTML file or as GitHub-flavoured Markdown. `pictures`: name -> file."""
    ranking = formatting.ranking_text(report.ranking, report.metric)
    page = _templates(html=kind == "html").get_template("page.jinja")
    text = page.render(report=report, ranking=ranking, pictures=pictures, kind=kind)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def line(text: str) -> str:
    """Markdown that shows `text` as it is: one line, no markup, its beginning no list, heading, quote or fence."""
    return re.sub(r"^(\d+(?=[.)])|(?=[-+#>]))", r"\1\\", _inline(text))


def _templates(html: bool) -> Environment:
    loader, extensions = PackageLoader("ramen.report", ""), ["jinja2.ext.do"]
    templates = Environment(loader=loader, autoescape=html, trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    names = ("large", "duration", "memory", "speedup", "one_line", "seeds")
    templates.filters |= {name: getattr(formatting, name) for name in names}
    templates.filters |= {"line": line, "cell": _cell, "embedded": _embedded}
    templates.globals |= {"rows": rows, "most_rows": MOST_ROWS}
    templates.globals |= {"most_drawn": grouping.MOST_DRAWN, "least_seeds": grouping.LEAST_SEEDS}
    return templates


def _cell(text: object) -> str:
    return _inline(text).replace("|", "\\|")


def _inline(text: object) -> str:
    return re.sub(r"[\\`*_~<\[&]", r"\\\g<0>", one_line(text))


def _embedded(picture: Path) -> str:
    """The picture as a data address, so that the page is one file."""
    return "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode("ascii")


def _data(run: Run) -> str:
    name, digest = run.choices.get("data") or run.value("data._target_") or "unknown", fact("data_hash", run)
    return f"{name} ({digest})" if digest else str(name)
