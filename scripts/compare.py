"""Compare runs: `python scripts/compare.py outputs/my_sweep --by optimizer --baseline optimizer=adamw`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ramen.errors import EXIT_CODE, RamenError, a_reader_may_leave
from ramen.report import Report, compare
from ramen.report.formatting import printable, ranking_text


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Compare runs and write report.html, report.md, runs.csv and pictures."
    )
    parser.add_argument("folders", nargs="+", type=Path, help="run folders, or folders that hold runs at any depth")
    parser.add_argument("--by", action="append", help="config group or dotted key to group by; repeat or use commas")
    parser.add_argument("--baseline", help="method to measure against, e.g. optimizer=adamw or just adamw")
    parser.add_argument("--out", type=Path, help="folder for the report (default: the first folder)")
    parser.add_argument(
        "--metric",
        help="number of the summaries to rank by (default: final_val_loss; bits per byte where tokenizers differ)",
    )
    parser.add_argument("--target", type=float, help="validation loss to reach (default: the baseline's final one)")
    return parser.parse_args(arguments)


def show(report: Report, console: Console) -> None:
    text = ranking_text(report.ranking, report.metric)
    text = text.drop(columns=["", "p"])  # the page has them all
    table = Table(
        title=printable(f"{report.metric} by {', '.join(report.by)}"),
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for title in text.columns:
        table.add_column(title.replace(f"{report.metric} (mean ± sd)", "mean ± sd").replace("95 % ", "95%\u00a0"))
    for row in text.itertuples(index=False):
        table.add_row(*map(escape, row))
    console.print(table)
    console.print(report.answer, markup=False)
    for warning in report.warnings[:12]:
        console.print(f"warning: {warning}", style="yellow", markup=False, highlight=False)
    if len(report.warnings) > 12:
        console.print(f"... and {len(report.warnings) - 12} more warnings in the report", style="yellow")
    for path in (report.paths["report"], report.picture):
        if path is not None:
            console.print(printable(str(path)), markup=False, highlight=False, soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)  # named as the parameters of compare
    try:
        options.out = options.out or options.folders[0]
        report = compare(**vars(options))
    except (RamenError, OSError) as error:
        print(*map(printable, str(error).splitlines()), sep="\n", file=sys.stderr)
        return EXIT_CODE
    console = Console()
    show(report, console if console.is_terminal else Console(width=120))  # a log has no edge to wrap at
    return 0


if __name__ == "__main__":
    with a_reader_may_leave():
        sys.exit(main())
