"""Your own text: .txt, .jsonl and .parquet files.

A .txt file is one document, or several with a line between them that holds only `separator`; a line of .jsonl and a
row of .parquet is one document each, its text under `text_column`. Files are read in order of their paths, one
document at a time.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from glob import escape, glob
from pathlib import Path
from typing import Any

from ramen.data.source import TextSource, threads
from ramen.errors import ConfigError, DataError


class Text(TextSource):
    """Local files as a corpus."""

    name = "text"

    def __init__(
        self, *, files: str | list[str], separator: str | None, text_column: str, workers: int | None, **base: Any
    ):
        super().__init__(**base)
        self.workers = threads(workers)
        self.files = [files] if isinstance(files, str) else list(files)
        self.separator = separator
        self.text_column = text_column
        if separator is not None and (separator != separator.strip() or "\n" in separator):
            raise ConfigError(
                f"data.separator: is not a line without blanks around, got {separator!r}; '' stands for an empty line"
            )

    def documents(self) -> Iterator[str]:
        for path in self.paths():
            try:
                yield from READERS[path.suffix](self, path)
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{path}: is not UTF-8, got byte {error.object[error.start]:#04x} ({error.reason}); convert it"
                ) from error
            except OSError as error:
                raise DataError(f"{path}: cannot be read, got {error.strerror or error}") from error

    def fingerprint(self) -> Mapping[str, Any]:
        """Path, size and time of change of every file: another state of a file is another corpus."""
        states = [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in self.paths()]
        return {"files": states, "separator": self.separator, "text_column": self.text_column}

    def paths(self) -> list[Path]:
        """The files that the patterns stand for. DataError when one stands for none, or for what is no text file."""
        found: set[Path] = set()
        for pattern in self.files:
            # Not Path's functions: they raise on what may not be looked at, and its glob takes no absolute patterns.
            plain = str(Path(os.path.expanduser(pattern)))  # noqa: PTH111
            matches = glob(escape(plain)) or glob(plain, recursive=True)  # noqa: PTH207 - a name may have brackets in it
            if not matches:
                raise DataError(
                    f"data.files: no file matches, got {pattern!r} in {Path.cwd()}; "
                    "allowed are paths and globs (** for all folders)"
                )
            found.update(map(Path, matches))
        if not found:
            raise DataError("data.files: names no file, got an empty list; give at least one path or glob")
        for path in sorted(found):
            if not path.is_file() or path.suffix not in READERS:
                other = "a folder" if path.is_dir() else "a pipe, a device or a broken link"
                what = f"{path.suffix or 'no'} suffix" if path.is_file() else other
                raise DataError(
                    f"{path}: is no text file, got {what}; "
                    f"allowed are {', '.join(READERS)}, for example data.files='folder/*.txt'"
                )
        return sorted(found)


def _read_txt(source: Text, path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8-sig") as file:
        if source.separator is None:
            yield file.read()
        else:
            yield from _split_lines(file, source.separator)


def _split_lines(lines: Iterable[str], separator: str) -> Iterator[str]:
    """The texts between the lines that hold only `separator`."""
    text: list[str] = []
    for line in lines:
        if line.strip() == separator:
            if text:
                yield "".join(text)
            text = []
        else:
            text.append(line)
    if text:
        yield "".join(text)


def _read_jsonl(source: Text, path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:  # the latter of brackets without end
                raise DataError(
                    f"{path}: line {number} is not json, got {line[:40]!r}; each line is one json object"
                ) from error
            text = record.get(source.text_column) if isinstance(record, dict) else None
            if not isinstance(text, str):
                if isinstance(record, dict) and source.text_column not in record:
                    there = ", ".join(record) or "{}"
                else:
                    there = type(text if isinstance(record, dict) else record).__name__
                raise DataError(
                    f"{path}: line {number} has no text under data.text_column={source.text_column!r}, got {there}"
                )
            yield text


def _read_parquet(source: Text, path: Path) -> Iterator[str]:
    import pyarrow  # type: ignore[import-untyped]
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            columns = file.schema_arrow.names
            if source.text_column not in columns:
                raise DataError(
                    f"{path}: has no data.text_column={source.text_column!r}; its columns are {', '.join(columns)}"
                )
            for group in file.iter_batches(columns=[source.text_column], batch_size=256):
                for text in group.column(0).to_pylist():
                    if not isinstance(text, str):
                        raise DataError(
                            f"{path}: data.text_column={source.text_column!r} holds {text!r}; only texts are allowed"
                        )
                    yield text
    except pyarrow.ArrowException as error:
        raise DataError(f"{path}: cannot be read as parquet, got {error}") from error


READERS = {".txt": _read_txt, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
