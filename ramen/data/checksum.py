"""checksums.json: which record a shard was found to have in which state, so that no start reads gigabytes again.

A state is size, time of change and time of the last change of the inode, which cannot be set back. A file in the state
noted is taken to be what it was; any other is read. Delete checksums.json to have every shard read once more.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ramen.config.check import is_text
from ramen.data.shard import ShardRecord, read_record
from ramen.data.tokenizer import Tokenizer
from ramen.errors import DataError
from ramen.runs.atomic import read_json, write_atomically

CHECKSUMS = "checksums.json"
THREADS = 4

log = logging.getLogger("ramen")


class ChecksumCache:
    """The records noted in a folder. A note that cannot be used counts as none: it only costs a reading."""

    def __init__(self, folder: Path):
        self.path = folder / CHECKSUMS
        self._notes: dict[str, tuple[list[int], ShardRecord]] = {}
        self._changed = False
        with suppress(OSError, ValueError, TypeError, KeyError):
            notes = read_sealed(self.path)["shards"]
            self._notes = {name: (state, record_from(record)) for name, (state, record) in notes.items()}

    def __contains__(self, path: Path) -> bool:
        return path.name in self._notes

    def note(self, path: Path, record: ShardRecord) -> None:
        """Remember the record of a file that has just been read."""
        self._notes[path.name], self._changed = (_state(path), record), True

    def record(self, path: Path, tokenizer: Tokenizer) -> ShardRecord:
        """The record of a shard: noted, or read now if its state is another. DataError when it is damaged or was changed."""
        state, (noted_state, noted) = _state(path), self._notes.get(path.name, (None, None))
        if noted and noted_state == state:
            return noted
        record = read_record(path, tokenizer)
        if noted and noted != record:
            raise DataError(f"{path}: was changed, got sha256 {record.sha256}; noted is {noted.sha256}")
        self._notes[path.name], self._changed = (state, record), True
        return record

    def records(self, paths: Sequence[Path], tokenizer: Tokenizer) -> dict[Path, ShardRecord | DataError]:
        """Those of several shards, read in threads; of a damaged one the error."""

        def record(path: Path) -> ShardRecord | DataError:
            try:
                return self.record(path, tokenizer)
            except DataError as error:
                return error

        with ThreadPoolExecutor(THREADS) as pool:
            return dict(zip(paths, pool.map(record, paths), strict=True))

    def save(self) -> None:
        """Write the notes, where the folder can be written to."""
        if self._changed:
            notes = {name: [state, asdict(record)] for name, (state, record) in sorted(self._notes.items())}
            try:
                write_sealed(self.path, {"shards": notes})
                self._changed = False
            except DataError as error:
                log.warning("%s; every start will read the shards again", error)


def record_from(stated: Any) -> ShardRecord:
    """A record as json states it. TypeError when it is none."""
    record = ShardRecord(**stated)
    counts = (record.tokens, record.documents, record.bytes)
    if not all(isinstance(count, int) and count >= 0 for count in counts) or not isinstance(record.sha256, str):
        raise TypeError(f"{record}")
    if not isinstance(record.file, str) or Path(record.file).name != record.file or not is_text(record.file):
        raise TypeError(f"file {record.file!r}, which is no name of a file in this folder")
    return record


def sha256_of(content: Mapping[str, Any]) -> str:
    """sha256 over a content of json values."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_sealed(path: Path, content: Mapping[str, Any]) -> None:
    """Write the content as json with its own sha256, so that no number in it changes unnoticed."""
    write_atomically(path, json.dumps({**content, "sha256": sha256_of(content)}, indent=1).encode())


def read_sealed(path: Path) -> dict[str, Any]:
    """A content that `write_sealed` wrote. OSError, or ValueError for what is none or was changed."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"a {type(content).__name__} in place of a mapping")
    stated = content.pop("sha256", None)
    if stated != (found := sha256_of(content)):
        raise ValueError(f"sha256 {found} where {stated} is stated: it was changed")
    return content


def _state(path: Path) -> list[int]:
    try:
        state = path.stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be read, got {error.strerror or error}; a .bin shard is needed") from error
    return [state.st_size, state.st_mtime_ns, state.st_ctime_ns]
