"""manifest.json of a folder of shards: the record of each, the state of its file when it was read, and where all came from.

A state is size, time of change and time of the last change of the inode, which cannot be set back. A file in its noted
state is taken to be what it was, so that no start reads gigabytes again; any other is read and compared with its record.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ramen.config.check import is_text
from ramen.data.shard import ShardRecord, read_record
from ramen.data.tokenizer import Tokenizer
from ramen.errors import DataError, told
from ramen.runs.atomic import read_json, sha256_of, write_atomically

MANIFEST = "manifest.json"
THREADS = 4

log = logging.getLogger("ramen")


class ShardIndex:
    """The manifest of a folder. One that is missing or damaged is empty, and `problem` tells why."""

    def __init__(self, folder: Path):
        self.path = folder / MANIFEST
        self.about: dict[str, Any] = {}  # where the shards come from
        self.problem: str | None = None
        self._notes: dict[str, tuple[list[int], ShardRecord]] = {}
        self._changed = False
        try:
            content = read_json(self.path)
            stated = content.pop("sha256")
            if stated != (actual := sha256_of(content)):
                raise ValueError(f"sha256 {actual} where {stated} is stated: it was changed")
            self.about = {**content["about"]}
            self._notes = {name: (state, _record(name, stated)) for name, (state, stated) in content["shards"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            self.problem = told(error)

    def __contains__(self, path: Path) -> bool:
        return path.name in self._notes

    def names(self, prefix: str) -> list[str]:
        """The shards whose names begin so, in order."""
        return sorted(name for name in self._notes if name.startswith(prefix))

    def record(self, path: Path, tokenizer: Tokenizer) -> ShardRecord:
        """The record of a shard; it is read if its state is not noted. DataError when it is damaged or was changed."""
        state, (noted_state, noted) = _state(path), self._notes.get(path.name, (None, None))
        if noted and noted_state == state:
            return noted
        record = read_record(path, tokenizer)
        if noted and noted != record:
            raise DataError(f"{path}: was changed, got sha256 {record.sha256}; {MANIFEST} states {noted.sha256}")
        self._notes[path.name], self._changed = (state, record), True
        return record

    def records(
        self, paths: Sequence[Path], tokenizer: Tokenizer
    ) -> tuple[dict[str, ShardRecord], dict[Path, DataError]]:
        """Those of several shards by name, read in threads, and the errors of the others."""
        errors = {}

        def record(path: Path) -> ShardRecord | None:
            try:
                return self.record(path, tokenizer)
            except DataError as error:
                errors[path] = error
                return None

        with ThreadPoolExecutor(THREADS) as pool:
            return {whole.file: whole for whole in pool.map(record, paths) if whole}, errors

    def forget(self, path: Path) -> None:
        """Let the file be what it is when it is read next."""
        self._changed |= self._notes.pop(path.name, None) is not None

    def write(self) -> None:
        """Write the manifest, with its own sha256, so that no number in it changes unnoticed. DataError where it cannot be."""
        shards = {name: [state, asdict(record)] for name, (state, record) in sorted(self._notes.items())}
        content = {"about": self.about, "shards": shards}
        write_atomically(self.path, json.dumps({**content, "sha256": sha256_of(content)}, indent=1).encode())
        self._changed = False

    def save(self) -> None:
        """Write what was read anew, where the folder can be written to."""
        if self._changed:
            try:
                self.write()
            except DataError as error:
                log.warning("%s; every start will read the shards again", error)


def _record(name: str, stated: Mapping[str, Any]) -> ShardRecord:
    """TypeError when it is none, or names a file elsewhere."""
    record = ShardRecord(**stated)
    counts = (record.tokens, record.documents, record.bytes)
    if not all(isinstance(count, int) and count >= 0 for count in counts) or not isinstance(record.sha256, str):
        raise TypeError(f"{record}")
    if record.file != name or Path(name).name != name or not is_text(name):
        raise TypeError(f"file {record.file!r}, which is no name of a file in this folder")
    return record


def _state(path: Path) -> list[int]:
    try:
        state = path.stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be read, got {error.strerror or error}; a .bin shard is needed") from error
    return [state.st_size, state.st_mtime_ns, state.st_ctime_ns]
