"""Your own text: any text files, .jsonl and .parquet.

A text file is one document, or several with a line between them that holds only `separator`, or one a line; a line of
.jsonl and a row of .parquet is one document each, its text under `text_column`. Files are read in order of their paths,
one document at a time.
"""

import codecs
import itertools
import json
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from glob import escape, glob
from pathlib import Path
from typing import Any

from ramen.data.shard import refusing
from ramen.data.source import TextSource, states_of
from ramen.errors import DataError

LINES = ("\n", r"\n")  # separators that make each line a document; the second is how a shell's quotes hand it on
LOOK_BYTES = 4096  # of a file in a folder, to tell whether it is text

log = logging.getLogger("ramen")


@dataclass(kw_only=True, eq=False)
class Text(TextSource):
    """Local files as a corpus."""

    files: str | list[str]
    separator: str | None
    text_column: str

    def __post_init__(self) -> None:
        super().__post_init__()
        separator = self.separator
        if separator not in (None, *LINES) and (separator != separator.strip() or "\n" in separator):
            remedy = r"'' stands for an empty line, '\n' for the end of each line"
            raise ValueError(f"separator: is not a line without blanks around, got {separator!r}; {remedy}")

    def documents(self) -> Iterator[str]:
        for path in self.paths():
            with refusing(f"{path}: cannot be read", "a file of UTF-8 text is needed", OSError, UnicodeDecodeError):
                if not path.stat().st_size:  # also of files of /proc, some of which never end
                    continue
                if rows := ROWS.get(path.suffix):
                    yield from self.texts_of(rows(path, self.text_column), self.text_column)
                else:
                    yield from self._read_text(path)

    def fingerprint(self) -> Mapping[str, Any]:
        return {"files": states_of(self.paths()), "separator": self.separator, "text_column": self.text_column}

    def paths(self) -> list[Path]:
        """The files that the patterns stand for; of a folder all that are text. DataError when a pattern stands for none."""
        paths: set[Path] = set()
        for pattern in [self.files] if isinstance(self.files, str) else self.files:
            # Not Path's functions: they raise on what may not be looked at, and its glob takes no absolute patterns.
            plain = str(Path(os.path.expanduser(pattern)))  # noqa: PTH111
            matches = glob(escape(plain)) or glob(plain, recursive=True)  # noqa: PTH207 - a name may have brackets in it
            files = {file for path in map(Path, matches) for file in (_inside(path) if path.is_dir() else [path])}
            if not files:
                remedy = "allowed are paths, folders and globs (** for all folders)"
                raise DataError(f"data.files: no file matches, got {pattern!r} in {Path.cwd()}; {remedy}")
            paths |= files
        if not paths:
            raise DataError("data.files: names no file, got an empty list; give at least one path, folder or glob")
        for path in sorted(paths):
            if not path.is_file():
                raise DataError(f"{path}: is no text file, got a pipe, a device or a broken link; a file is needed")
        return sorted(paths)

    def _read_text(self, path: Path) -> Iterator[str]:
        with path.open(encoding="utf-8-sig") as file:
            if self.separator is None:
                yield file.read()
            elif self.separator in LINES:
                yield from (line.rstrip("\n") for line in file)
            else:
                for is_separator, lines in itertools.groupby(file, lambda line: line.strip() == self.separator):
                    if not is_separator:
                        yield "".join(lines)


def _inside(folder: Path) -> list[Path]:
    """The files in a folder and its folders that are text. Hidden ones are left out."""
    visible = [path for path in folder.rglob("*") if not any(part[0] == "." for part in path.relative_to(folder).parts)]
    files = [path for path in visible if path.is_file() and path.stat().st_size]
    texts = [path for path in files if path.suffix in ROWS or _is_text(path)]
    if others := len(files) - len(texts):
        log.info("data.files: %d of %d files in %s are no text and are left out", others, len(files), folder)
    return texts


def _is_text(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(LOOK_BYTES)
        # The last character may be cut by the end of the look.
        text = codecs.getincrementaldecoder("utf-8")().decode(head, final=len(head) < LOOK_BYTES)
    except UnicodeDecodeError:
        return False
    except OSError:
        return True  # reading it will raise a DataError
    return "\0" not in text


def _jsonl_rows(path: Path, column: str) -> Iterator[tuple[str, Any]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                problem, remedy = f"{path}: line {number} is not json", "each line is one json object"
                with refusing(problem, remedy, ValueError, RecursionError):  # the latter of brackets without end
                    row = json.loads(line)
                yield f"{path}: line {number}", row


def _parquet_rows(path: Path, column: str) -> Iterator[tuple[str, Any]]:
    import pyarrow  # type: ignore[import-untyped]
    from pyarrow import parquet

    problem, remedy = f"{path}: cannot be read as parquet", "a .parquet file is needed"
    with refusing(problem, remedy, pyarrow.ArrowException), parquet.ParquetFile(path) as file:
        columns = [name for name in file.schema_arrow.names if name in (column, column.partition(".")[0])]
        groups = file.iter_batches(columns=columns or None, batch_size=256)
        for number, row in enumerate((row for group in groups for row in group.to_pylist()), start=1):
            yield f"{path}: row {number}", row


ROWS = {".jsonl": _jsonl_rows, ".parquet": _parquet_rows}
