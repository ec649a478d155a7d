"""The shards of one split, written as their tokens come: memory does not grow with a shard or a document.

A shard that is being filled has a header of zeros, which no reader takes for a shard; its true header is written when it
is closed. `sync` makes sure of what has been written and says in a few numbers how far it is; a writer made from those
numbers goes on from there.
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ramen.data.examine import ShardRecord
from ramen.data.shard import HEADER_BYTES, MOST_TOKENS, header_of
from ramen.data.tokenize import Documents
from ramen.data.tokenizer import Tokenizer
from ramen.data.verified import Verified
from ramen.errors import DataError


class SplitWriter:
    """Takes documents in order and leaves `<split>_<number>.bin` files.

    No document is cut: a shard is closed by the document that brings it to `shard_tokens`.
    """

    def __init__(
        self, folder: Path, split: str, first: int, tokenizer: Tokenizer, shard_tokens: int, verified: Verified
    ):
        self.folder = folder
        self.split = split
        self.first = first
        self.tokenizer = tokenizer
        self.shard_tokens = shard_tokens
        self.verified = verified
        self.records: list[ShardRecord] = []
        self.tokens = 0  # in the shard that is being filled
        self.file: BinaryIO | None = None

    @property
    def total(self) -> int:
        """Tokens written so far."""
        return self.tokens + sum(record.tokens for record in self.records)

    def restore(self, state: Mapping[str, Any]) -> bool:
        """Go on from what `sync` returned. False, or FileNotFoundError, when the files are not as they were then."""
        self.records = [ShardRecord(**record) for record in state["records"]]
        self.tokens = state["tokens"]
        sizes = {record.file: HEADER_BYTES + 2 * record.tokens for record in self.records}
        if not all((self.folder / file).stat().st_size == size for file, size in sizes.items()):
            return False
        for path in self.folder.glob(f"{self.split}_*.bin"):
            if path.name not in sizes and (path != self.path or not self.tokens):
                path.unlink()
        if not self.tokens:
            return True
        end = HEADER_BYTES + 2 * self.tokens
        if self.path.stat().st_size < end:
            return False
        self.file = self.path.open("r+b")
        self.file.write(bytes(HEADER_BYTES))
        self.file.seek(end)
        self.file.truncate()
        return True

    @property
    def path(self) -> Path:
        """The shard that is being filled, or will be next."""
        return self.folder / f"{self.split}_{self.first + len(self.records):06d}.bin"

    def write(self, documents: Documents) -> None:
        """Add documents, closing shards as they fill."""
        start = end = 0
        for length in documents.lengths:
            end += length
            if self.tokens + end - start >= self.shard_tokens:
                self._append(documents.ids[start:end])
                self._close_shard()
                start = end
        self._append(documents.ids[start:])

    def sync(self) -> dict[str, Any]:
        """Force what has been written to disk; returns how far it is, in json values."""
        if self.file:
            self.file.flush()
            os.fsync(self.file.fileno())
        return {"tokens": self.tokens, "records": [asdict(record) for record in self.records]}

    def finish(self) -> list[ShardRecord]:
        """Close the last shard; returns all of them in order."""
        if self.tokens:
            self._close_shard()
        return self.records

    def abandon(self) -> None:
        """Let go of the file; what is in it stays."""
        if self.file:
            with suppress(OSError):  # what could not be written on a full disk
                self.file.close()
            self.file = None

    def _append(self, ids: NDArray[np.uint16]) -> None:
        if not len(ids):
            return
        if self.tokens + len(ids) > MOST_TOKENS:
            raise DataError(
                f"{self.path}: a document is too long, got {len(ids)} tokens; a shard has at most {MOST_TOKENS}"
            )
        if self.file is None:
            self.file = self.path.open("wb")
            self.file.write(bytes(HEADER_BYTES))
        self.file.write(np.ascontiguousarray(ids, dtype="<u2").data)
        self.tokens += len(ids)

    def _close_shard(self) -> None:
        assert self.file is not None
        self.file.flush()
        os.fsync(self.file.fileno())  # first the tokens, then the header that vouches for them
        self.file.seek(0)
        self.file.write(header_of(self.tokens))
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        self.records.append(self.verified.examine(self.path, self.tokenizer))
        self.tokens, self.file = 0, None
