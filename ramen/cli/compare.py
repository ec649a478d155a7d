"""`ramen compare`: compare runs: `ramen compare outputs/my_sweep --by optimizer --baseline optimizer=adamw`."""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ramen.errors import ConfigError, printable
from ramen.report import Report, compare
from ramen.report.formatting import ranking_text
from ramen.report.grouping import find_method

MOST_WARNINGS = 12  # printed; the report has them all


def main(arguments: Sequence[str]) -> int:
    """Write a report, and print its table and its answer."""
    parser = argparse.ArgumentParser(
        prog="ramen compare", description="Compare runs and write report.html, report.md, runs.csv and pictures."
    )
    add = parser.add_argument
    add("folders", nargs="+", type=Path, help="run folders, or folders that hold runs at any depth")
    add("--by", action="append", help="config group or dotted key to group by; repeat or use commas")
    add("--baseline", help="method to measure against, e.g. optimizer=adamw or just adamw")
    add("--out", type=Path, help="folder for the report (default: the first folder)")
    add("--metric", help="number of the summaries to rank by (final_val_loss; bits per byte where tokenizers differ)")
    add("--target", type=float, help="validation loss to reach (default: the baseline's final one)")
    add("--json", action="store_true", help="print the comparison as json (docs/report.md) in place of the table")
    claim = '"METHOD better than METHOD"'
    add(
        "--assert",
        type=_claim,
        metavar=claim,
        help="exit with code 1 unless that is the verdict; the second is the baseline",
    )
    options = vars(parser.parse_args(arguments))  # what is not taken out is named as the parameters of compare
    as_json, claimed = options.pop("json"), options.pop("assert")
    options["out"] = options["out"] or options["folders"][0]
    if claimed and options["baseline"] not in (None, claimed[2]):
        raise ConfigError(f"--baseline: is the second method of --assert, got {options['baseline']}; leave it out")
    options["baseline"] = claimed[2] if claimed else options["baseline"]
    report = compare(**options)
    if as_json:
        print(_json(report))
    else:
        _print(report)
    return 0 if claimed is None or _holds(report, *claimed[:2]) else 1


def _claim(text: str) -> tuple[str, str, str]:
    """Method, verdict, baseline."""
    parts = re.fullmatch(r"(\S.*) (better|worse) than (\S+)", text.strip())
    if not parts:
        raise argparse.ArgumentTypeError(f'must be "METHOD better than METHOD" or "... worse than ...", got {text!r}')
    return parts[1], parts[2], parts[3]


def _holds(report: Report, name: str, verdict: str) -> bool:
    """True if a method has a verdict. DataError without such a method."""
    label = find_method("--assert", name, report.methods, report.by).label
    actual = report.ranking.set_index("method")["verdict"][label]
    if actual != verdict:
        print(printable(f"--assert: {label} is not {verdict} than {report.baseline}: {actual}"), file=sys.stderr)
    return actual == verdict


def _json(report: Report) -> str:
    """The comparison for programs; a number that is not finite is null."""
    table = json.loads(report.ranking.drop(columns="rank").to_json(orient="records"))
    facts = {key: getattr(report, key) for key in ("metric", "by", "baseline", "answer", "setup", "warnings")}
    files = {name: str(path) for name, path in report.paths.items()}
    return json.dumps({"format": 1, **facts, "methods": table, "files": files}, indent=1)


def _print(report: Report) -> None:
    console = Console(width=None if sys.stdout.isatty() else 120)  # a log has no edge to wrap at
    text = ranking_text(report.ranking, report.metric).drop(columns=["", "p"])  # the page has them all
    title = printable(f"{report.metric} by {', '.join(report.by)}")
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for title in text.columns:
        table.add_column(title.replace(f"{report.metric} (mean ± sd)", "mean ± sd").replace("95 % ", "95%\u00a0"))
    for row in text.itertuples(index=False):
        table.add_row(*map(escape, row))
    console.print(table)
    console.print(report.answer, markup=False)
    for warning in report.warnings[:MOST_WARNINGS]:
        console.print(f"warning: {warning}", style="yellow", markup=False, highlight=False)
    if (more := len(report.warnings) - MOST_WARNINGS) > 0:
        console.print(f"... and {more} more warnings in the report", style="yellow")
    for name in ("report", "loss_by_tokens" if "loss_by_tokens" in report.paths else "loss_by_steps"):
        if name in report.paths:
            console.print(printable(report.paths[name]), markup=False, highlight=False, soft_wrap=True)
