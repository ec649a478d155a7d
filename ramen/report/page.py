"""The report's page: one list of blocks, written by two templates as HTML (one file, pictures embedded) and Markdown."""

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jinja2 import Environment, PackageLoader

from ramen.report import formatting

if TYPE_CHECKING:
    from ramen.report.report import Report

MOST_WARNINGS, MOST_ROWS = 40, 60
CAPTIONS = {
    "difference": "Difference to the baseline: dots are seeds, the tick is the mean, the bar its 95 % interval (Holm). "
    "A bar that crosses the line is no evidence of a difference.",
    "loss_by_steps": "Loss against steps: mean over seeds, band = one standard deviation.",
    "loss_by_tokens": "Loss against training tokens: at equal data.",
    "loss_by_seconds": "Loss against training seconds (without compilation and evaluation): at equal time.",
    "learning_rate": "Result against learning rate, mean ± sd over seeds; the ring marks the rate shown. "
    "A trusted optimum has a worse rate on both sides; a cross marks a rate that diverged.",
}


class Block(NamedTuple):
    """A piece of the page. `kind`: heading, text, warnings, list, picture (name), table (data frame of text)."""

    kind: str
    content: Any
    caption: str = ""


def render(report: "Report", kind: str, pictures: dict[str, Path]) -> str:
    """The page as `html` or `md`. `pictures`: name -> file."""
    environment = Environment(
        loader=PackageLoader("ramen.report", ""), autoescape=kind == "html", trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"paragraph": paragraph, "cell": cell, "embedded": embedded}
    page = environment.get_template(f"page.{kind}.jinja")
    return page.render(answer=report.answer, blocks=list(blocks(report, pictures)), most_rows=MOST_ROWS)


def blocks(report: "Report", pictures: dict[str, Path]) -> Iterator[Block]:
    """The page in reading order, below its answer: warnings, ranking, pictures, details."""

    def drawn(*names: str) -> Iterator[Block]:
        return (Block("picture", pictures[name], CAPTIONS[name]) for name in names if name in pictures)

    yield Block("list", report.setup)
    yield Block("heading", "Warnings")
    if report.warnings:
        more = len(report.warnings) - MOST_WARNINGS
        yield Block("warnings", report.warnings[:MOST_WARNINGS] + ([f"... and {more} more."] if more > 0 else []))
    else:
        yield Block("text", "None: every check of the comparison protocol passed.")
    yield Block("heading", "Ranking")
    yield Block("table", formatting.ranking_text(report.ranking, report.metric))
    yield Block("list", report.notes)
    yield from drawn("difference", "loss_by_tokens", "loss_by_steps", "loss_by_seconds")
    yield Block("heading", "Is each method tuned?")
    yield Block(
        "list",
        [formatting.printable(c.remark) for c in report.lr_curves][:MOST_ROWS] or ["No learning rate is recorded."],
    )
    yield from drawn("learning_rate")
    if len(report.targets):
        yield Block("heading", "Tokens and seconds to the target")
        yield Block(
            "text",
            f"{report.target_text} Linear between evaluations, so no finer than the evaluation interval. A "
            "method that not every seed carried to the target has no speed-up: nothing is extrapolated.",
        )
        yield Block("table", formatting.targets_text(report.targets))
    yield Block("heading", "Throughput, memory and outcomes")
    yield Block("table", formatting.cost_text(report.ranking))
    if len(report.left_out):
        yield Block("heading", "Runs left out of the ranking")
        yield Block("table", formatting.left_out_text(report.left_out))


def paragraph(text: str) -> str:
    """Markdown that shows `text` as it is: one line, no markup, its beginning no list, heading, quote or fence."""
    return re.sub(r"^(\d+(?=[.)])|(?=[-+#>]))", r"\1\\", _inline(text))


def cell(text: str) -> str:
    """Markdown that shows `text` as it is in a table."""
    return _inline(text).replace("|", "\\|")


def embedded(picture: Path) -> str:
    """The picture as a data address, so that the page is one file."""
    return "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode("ascii")


def _inline(text: str) -> str:
    return " ".join(re.sub(r"[\\`*_~<\[&]", r"\\\g<0>", text).split())
