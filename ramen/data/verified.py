"""verified.json: in which state a file was found to have which sha256, so that no start reads gigabytes again.

A state is size, time of change and time of the last change of the inode, which cannot be set back. A file whose state is
the noted one is taken to be what it was; any other is read. Delete verified.json to have every shard read once more.
"""

import json
import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from ramen.data.examine import ShardRecord, examine
from ramen.data.tokenizer import Tokenizer
from ramen.errors import DataError
from ramen.runs.atomic import read_json, write_atomically

VERIFIED = "verified.json"
THREADS = 4

log = logging.getLogger("ramen")


class Verified:
    """What is noted in a folder. A missing or foreign note is an empty one: it only costs a reading."""

    def __init__(self, folder: Path):
        self.path = folder / VERIFIED
        self.notes: dict[str, list] = {}
        self.changed = False
        with suppress(OSError, ValueError):
            stored = read_json(self.path)
            if isinstance(stored, dict):
                self.notes = stored

    def sha256(self, path: Path) -> str | None:
        """The sha256 of the file, if it is in the state noted."""
        note = self.notes.get(path.name)
        return note[-1] if isinstance(note, list) and note[:-1] == _state(path) else None

    def examine(self, path: Path, tokenizer: Tokenizer) -> ShardRecord:
        """Read the file and note its state before."""
        state = _state(path)
        record = examine(path, tokenizer)
        self.notes[path.name] = [*state, record.sha256]
        self.changed = True
        return record

    def records(
        self, stated: Mapping[Path, ShardRecord | None], tokenizer: Tokenizer
    ) -> dict[Path, ShardRecord | DataError]:
        """Of each file the record stated, where its noted state vouches for it, else what is read in it or wrong with it."""
        found: dict[Path, ShardRecord | DataError] = {
            path: record for path, record in stated.items() if record and self.sha256(path) == record.sha256
        }
        unknown = [path for path in stated if path not in found]

        def one(path: Path) -> ShardRecord | DataError:
            try:
                return self.examine(path, tokenizer)
            except DataError as error:
                return error

        if len(unknown) > 1:
            log.info("reading %d shards in %s, once", len(unknown), unknown[0].parent)
        with ThreadPoolExecutor(THREADS) as pool:
            return found | dict(zip(unknown, pool.map(one, unknown), strict=True))

    def save(self) -> None:
        """Keep the notes, where the folder can be written to."""
        if not self.changed:
            return
        try:
            write_atomically(self.path, json.dumps(self.notes, indent=0).encode())
            self.changed = False
        except DataError as error:
            log.warning("%s; every start will read the shards again", error)


def _state(path: Path) -> list[int]:
    try:
        found = path.stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be read, got {error.strerror or error}; a .bin shard is needed") from error
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]
