"""The report's words: the answer in one line, what was run, how the numbers were made, and the page.

page.jinja tells what stands where on the page, html.jinja and md.jinja how that is written, notes.jinja holds the notes.
"""

import base64
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pandas as pd
from jinja2 import Environment, PackageLoader

from ramen.report import formatting
from ramen.report.formatting import large, listed, loss, one_line, p_text, rows, seeds, value_text
from ramen.report.method import HIGHER_IS_BETTER, LEAST_SEEDS, MOST_DRAWN, Method
from ramen.report.tables import targets_by_seed
from ramen.runs.read import Run

if TYPE_CHECKING:
    from ramen.report.report import Report

MOST_ROWS = 60  # of a table


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
    text = f"{best['method']} has the {'highest' if base.metric in HIGHER_IS_BETTER else 'lowest'} {base.metric}: "
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
    return f"{text}; a difference of this size would take {seeds(best['seeds_needed'])}." if needed else f"{text}."


def setup(methods: list[Method], command: str) -> list[str]:
    """What was run: model, budget, data, code, date, machine, and the command of this report."""
    runs = [run for method in methods for run in method.chosen_runs.values()] or methods[0].runs

    def shared(name: str, length: int | None = None) -> str:
        texts = []
        for run in runs:
            number = run.metric(name)
            config = value_text(run.value(name)) if name in run.config else "unknown"
            texts.append(large(number) if math.isfinite(number) else run.facts.get(name, config)[:length])
        return listed(list(dict.fromkeys(texts)), 3)

    dates = [date for run in runs if (date := run.facts.get("started"))]
    return [
        f"Model: {shared('model.layers')} layers of width {shared('model.dim')}, {shared('parameters')} parameters",
        f"Budget: {shared('tokens')} training tokens in {shared('steps')} steps",
        f"Data: {listed(list(dict.fromkeys(map(_data, runs))), 3)}",
        f"Code: commit {shared('git_commit', 10)}",
        f"Date: {' to '.join(dict.fromkeys([min(dates), max(dates)])) if dates else 'not recorded'}",
        f"Machine: {shared('device')}; {shared('threads')} threads, torch {shared('versions.torch')}",
        f"Command: {command}",
    ]


def target_text(base: Method, target: float | None) -> str:
    """The target loss in words; empty if there is none."""
    if target is not None:
        return f"Target: validation loss {target:g}."
    by_seed, mean = targets_by_seed(base, None)
    text = f"Target: the final validation loss of {base.label} at the same seed (mean {loss(mean)})."
    return text if by_seed else ""


def notes(report: "Report", by_default: bool, base_note: str) -> list[str]:
    """How the numbers were made, in sentences. `by_default`: the grouping was not given but found."""
    text = _templates(html=False).get_template("notes.jinja").render(vars())
    return [one_line(note) for note in text.splitlines() if note]


def render(report: "Report", kind: Literal["html", "md"], pictures: dict[str, Path]) -> str:
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
    templates.globals |= {"rows": rows, "most_rows": MOST_ROWS, "most_drawn": MOST_DRAWN, "least_seeds": LEAST_SEEDS}
    return templates


def _cell(text: object) -> str:
    """Markdown that shows `text` as it is in a table."""
    return _inline(text).replace("|", "\\|")


def _inline(text: object) -> str:
    return re.sub(r"[\\`*_~<\[&]", r"\\\g<0>", one_line(text))


def _embedded(picture: Path) -> str:
    """The picture as a data address, so that the page is one file."""
    return "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode("ascii")


def _data(run: Run) -> str:
    name = run.choices.get("data") or run.value("data._target_") or "unknown"
    return f"{name} ({run.facts['data_hash'][:12]})" if "data_hash" in run.facts else str(name)
