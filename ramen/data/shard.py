"""Token shards: the `.bin` files of modded-nanogpt, so that its published data sets can be read as they are.

A header of 256 little-endian int32 (1,024 bytes): magic 20240520, version 1, the number of tokens, zeros; then the
tokens as little-endian uint16. Differs from the source: the header is compared with the size of the file, and a file
is written whole or not at all.
"""

import hashlib
import stat
import struct
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict, NonNegativeInt

from ramen.errors import DataError, RamenError, one_line

if TYPE_CHECKING:
    from ramen.data.tokenizer import Tokenizer

MAGIC = 20240520
VERSION = 1
HEADER_BYTES = 4 * 256
LARGEST_ID = 2**16 - 1
MOST_TOKENS = 2**31 - 1  # the count is an int32
READ_BYTES = 2**21


class ShardRecord(BaseModel):
    """The contents of a shard in numbers."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    file: str
    tokens: NonNegativeInt
    documents: NonNegativeInt  # occurrences of BOS
    bytes: NonNegativeInt  # of UTF-8 text that the tokens stand for
    sha256: str


def header_of(tokens: int) -> bytes:
    """The header of a shard of that many tokens."""
    return struct.pack("<3i", MAGIC, VERSION, tokens).ljust(HEADER_BYTES, b"\0")


@contextmanager
def refusing(problem: str, remedy: str, *errors: type[Exception], kind: type[DataError] = DataError) -> Iterator[None]:
    """Raise `<problem>, got <error>; <remedy>` for these errors, by default OSError; ramen's own pass."""
    try:
        yield
    except Exception as error:
        if isinstance(error, RamenError) or not isinstance(error, errors or OSError):
            raise
        raise kind(f"{problem}, got {one_line(error)}; {remedy}") from error


def reading(path: Path) -> AbstractContextManager[None]:
    """Refuse a shard that cannot be read. ValueError: it has shrunk since it was looked at."""
    return refusing(f"{path}: cannot be read", "a .bin shard is needed", OSError, ValueError)


def open_shard(path: Path) -> np.memmap:
    """The tokens of a shard, a read-only memory map (N,) of uint16. DataError when it is not exactly a whole shard."""
    with reading(path):
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):  # to open a pipe would wait for a writer
            kind = "a folder" if stat.S_ISDIR(state.st_mode) else "a pipe or device"
            raise DataError(f"{path}: is not a file, got {kind}; a .bin shard is needed")
        if (size := state.st_size) < HEADER_BYTES:
            raise DataError(f"{path}: is cut short, got {size} bytes; a shard has at least {HEADER_BYTES}")
        magic, version, count = np.fromfile(path, dtype="<i4", count=3).tolist()
        if magic != MAGIC or version != VERSION or count <= 0:
            header = f"magic number {magic}, version {version}, {count} tokens"
            allowed = f"{MAGIC}, {VERSION}, 1 to {MOST_TOKENS}"
            raise DataError(f"{path}: is no token shard, got {header}; allowed are {allowed}")
        if size != (whole := HEADER_BYTES + 2 * count):
            kind = "is cut short" if size < whole else "has bytes behind its last token"
            raise DataError(f"{path}: {kind}, got {size} bytes; {count} tokens take exactly {whole}")
        return np.memmap(path, dtype="<u2", mode="r", offset=HEADER_BYTES, shape=(count,))


def read_record(path: Path, tokenizer: "Tokenizer") -> ShardRecord:
    """One pass over a shard, in constant memory. DataError when it is damaged, or of another tokenizer."""
    tokens = len(open_shard(path))
    sha256 = hashlib.sha256()
    counts = np.zeros(2**16, dtype=np.int64)
    with reading(path), path.open("rb") as file:
        sha256.update(file.read(HEADER_BYTES))
        while part := file.read(READ_BYTES):
            sha256.update(part)
            counts += np.bincount(np.frombuffer(part[: len(part) // 2 * 2], dtype="<u2"), minlength=2**16)
    if counts.sum() != tokens:
        raise DataError(f"{path}: changed while it was read, got {counts.sum()} tokens; its header states {tokens}")
    check_ids(path, int(np.flatnonzero(counts)[-1]), tokenizer.bos)
    documents, size = int(counts[tokenizer.bos]), int(counts[: tokenizer.vocabulary] @ tokenizer.byte_lengths)
    return ShardRecord(file=path.name, tokens=tokens, documents=documents, bytes=size, sha256=sha256.hexdigest())


def check_ids(path: Path, largest: int, bos: int) -> None:
    """DataError when the largest id of a shard is that of another tokenizer."""
    if largest > bos:
        raise DataError(f"{path}: holds ids of another tokenizer, got id {largest}; allowed are 0 to {bos} (BOS)")
