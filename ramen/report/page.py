"""The report's page: page.jinja tells what stands where, html.jinja and md.jinja how that is written."""

import base64
import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jinja2 import Environment, PackageLoader

from ramen.report import formatting
from ramen.report.method import LEAST_SEEDS, MOST_DRAWN

if TYPE_CHECKING:
    from ramen.report.report import Report

MOST_ROWS = 60  # of a table


def render(report: "Report", kind: Literal["html", "md"], pictures: dict[str, Path]) -> str:
    """The page as one HTML file or as GitHub-flavoured Markdown. `pictures`: name -> file."""
    ranking = formatting.ranking_text(report.ranking, report.metric)
    page = _templates(html=kind == "html").get_template("page.jinja")
    text = page.render(report=report, ranking=ranking, pictures=pictures, kind=kind)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def notes(report: "Report", by_default: bool, base_note: str) -> list[str]:
    """How the numbers were made, in sentences. `by_default`: the grouping was not given but found."""
    text = _templates(html=False).get_template("notes.jinja").render(vars())
    return [formatting.printable(note) for note in text.splitlines() if note]


def _templates(html: bool) -> Environment:
    extensions = ["jinja2.ext.do"]
    loader = PackageLoader("ramen.report", "")
    templates = Environment(loader=loader, autoescape=html, trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    names = ("large", "duration", "memory", "speedup", "integer", "printable", "seeds")
    templates.filters |= {"line": line, "cell": cell, "embedded": embedded} | {n: getattr(formatting, n) for n in names}
    templates.globals |= {
        "rows": formatting.rows, "most_rows": MOST_ROWS, "most_drawn": MOST_DRAWN, "least_seeds": LEAST_SEEDS,
    }  # fmt: skip
    return templates


def line(text: str) -> str:
    """Markdown that shows `text` as it is: one line, no markup, its beginning no list, heading, quote or fence."""
    return re.sub(r"^(\d+(?=[.)])|(?=[-+#>]))", r"\1\\", _inline(text))


def cell(text: object) -> str:
    """Markdown that shows `text` as it is in a table."""
    return _inline(str(text)).replace("|", "\\|")


def embedded(picture: Path) -> str:
    """The picture as a data address, so that the page is one file."""
    return "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode("ascii")


def _inline(text: str) -> str:
    return re.sub(r"[\\`*_~<\[&]", r"\\\g<0>", formatting.printable(text))
