"""The report's page: page.jinja tells what stands where, html.jinja and md.jinja how that is written."""

import base64
import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jinja2 import Environment, PackageLoader

from ramen.report import formatting

if TYPE_CHECKING:
    from ramen.report.report import Report

MOST_ROWS = 60  # of a table


def render(report: "Report", kind: Literal["html", "md"], pictures: dict[str, Path]) -> str:
    """The page as one HTML file or as GitHub-flavoured Markdown. `pictures`: name -> file."""
    environment = Environment(
        loader=PackageLoader("ramen.report", ""),
        autoescape=kind == "html",
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.do"],
    )
    environment.filters |= {"line": line, "cell": cell, "embedded": embedded}
    names = ("large", "duration", "memory", "speedup", "integer", "printable")
    environment.filters |= {name: getattr(formatting, name) for name in names}
    environment.globals |= {"rows": formatting.rows, "most_rows": MOST_ROWS, "kind": kind}
    ranking = formatting.ranking_text(report.ranking, report.metric)
    page = environment.get_template("page.jinja").render(report=report, ranking=ranking, pictures=pictures)
    return re.sub(r"\n{3,}", "\n\n", page).strip() + "\n"


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
