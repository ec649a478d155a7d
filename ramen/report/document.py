"""The report's page in Markdown, in reading order: the answer, the warnings, the ranking, the pictures, the details.

The HTML page is made from this text, so the two files cannot disagree.
"""

import re
from typing import TYPE_CHECKING

from ramen.report import cells
from ramen.report.cells import TextTable

if TYPE_CHECKING:
    from ramen.report.report import Report

MOST_WARNINGS = 40
CAPTIONS = {
    "difference": "Difference to the baseline: dots are seeds, the tick is the mean, the bar its 95 % interval. "
    "A bar that crosses the line is no evidence of a difference.",
    "loss_by_steps": "Loss against steps: mean over seeds, band = one standard deviation.",
    "loss_by_tokens": "Loss against training tokens: at equal data.",
    "loss_by_seconds": "Loss against training seconds (without compilation and evaluation): at equal time.",
    "learning_rate": "Result against learning rate, mean ± sd over seeds; the ring marks the rate shown. "
    "A trusted optimum has a worse rate on both sides; a cross marks a rate that diverged.",
}


def document(report: "Report") -> str:
    """GitHub-flavoured Markdown; pictures are linked by their names."""
    shown, more = report.warnings[:MOST_WARNINGS], len(report.warnings) - MOST_WARNINGS
    blocks = ["# Comparison", paragraph(report.answer), "## Warnings"]
    blocks += [_bullets(shown + ([f"... and {more} more."] if more > 0 else []))]
    blocks += [] if shown else ["None: every check of the comparison protocol passed."]
    blocks += ["## Ranking", _table(cells.ranking_text(report.ranking, report.metric)), _bullets(report.notes)]
    blocks += _pictures(report, "difference", "loss_by_tokens", "loss_by_steps", "loss_by_seconds")
    remarks = [curve.remark for curve in report.lr_curves][: cells.MOST_ROWS]
    blocks += ["## Is each method tuned?", _bullets(remarks or ["No learning rate is recorded."])]
    blocks += _pictures(report, "learning_rate")
    if len(report.targets):
        blocks += [
            "## Tokens and seconds to the target",
            f"{paragraph(report.target_text)} Linear between evaluations, so no finer than the evaluation interval. A "
            "method that not every seed carried to the target has no speed-up: nothing is extrapolated.",
            _table(cells.targets_text(report.targets)),
        ]
    blocks += ["## Throughput, memory and outcomes", _table(cells.cost_text(report.ranking))]
    if len(report.left_out):
        blocks += ["## Runs left out of the ranking", _table(cells.left_out_text(report.left_out))]
    return "\n\n".join(block for block in blocks if block) + "\n"


def paragraph(text: str) -> str:
    """`text` to be read as it is: one line, nothing in it markup, its beginning no list, heading, quote or fence."""
    return re.sub(r"^(\d+(?=[.)])|(?=[-+#>]))", r"\1\\", _inline(text))


def _inline(text: str) -> str:
    return " ".join(re.sub(r"[\\`*_~<\[&]", r"\\\g<0>", text).split())


def _bullets(items: list[str]) -> str:
    return "\n".join(f"- {paragraph(item)}" for item in items)


def _pictures(report: "Report", *names: str) -> list[str]:
    return [f"![{CAPTIONS[n]}]({report.paths[n].name})\n\n*{CAPTIONS[n]}*" for n in names if n in report.paths]


def _table(table: TextTable) -> str:
    lines = [_row(table.header), _row(["---"] * len(table.header)), *map(_row, table.rows)]
    return "\n".join(lines) + (f"\n\n{table.left_off} more rows are left off here." if table.left_off else "")


def _row(texts: list[str]) -> str:
    return "| " + " | ".join(_inline(text).replace("|", "\\|") for text in texts) + " |"
