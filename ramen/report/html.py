"""The report's Markdown as one HTML file: pictures embedded, no script, nothing loaded from elsewhere."""

import base64
import re
from pathlib import Path

from markdown_it import MarkdownIt

STYLE = """
:root { color-scheme: light dark; --line: #8884; --warn: #d5870020; --edge: #d58700; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; }
table { display: block; overflow-x: auto; border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
tbody tr:hover { background: #8881; }
img { max-width: 100%; background: white; border-radius: 6px; }
p:has(> img) { margin: 1.5rem 0 0; }
p:has(> img) + p { margin: 0 0 1.5rem; }
em { font-style: normal; font-size: .9rem; opacity: .75; } /* captions */
h2:first-of-type + ul { background: var(--warn); border-left: 4px solid var(--edge); padding: .6rem .6rem .6rem 2rem; }
h1 + p { font-size: 1.15rem; }
"""


def render(markdown: str, folder: Path) -> str:
    """The page; `folder` holds the pictures that the text links."""

    def embedded(link: re.Match[str]) -> str:
        return "data:image/png;base64," + base64.b64encode((folder / link[0]).read_bytes()).decode("ascii")

    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)
    body = re.sub(r'(?<=<img src=")[^"]+', embedded, body)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>ramen comparison</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
    )
