"""Token shards: the `.bin` files of modded-nanogpt, so that its published data sets can be read as they are.

A header of 256 little-endian int32 (1,024 bytes): magic 20240520, version 1, the number of tokens, zeros; then the
tokens as little-endian uint16. Differs from the source: the header is compared with the size of the file, and a file
is written whole or not at all.
"""

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ramen.errors import DataError

if TYPE_CHECKING:
    from ramen.data.tokenizer import Tokenizer

MAGIC = 20240520
VERSION = 1
HEADER_INTS = 256
HEADER_BYTES = 4 * HEADER_INTS
LARGEST_ID = 2**16 - 1
MOST_TOKENS = 2**31 - 1  # the count is an int32
READ_BYTES = 2**21


@dataclass(frozen=True)
class ShardRecord:
    """The contents of a shard in numbers."""

    file: str
    tokens: int
    documents: int  # occurrences of BOS
    bytes: int  # of UTF-8 text that the tokens stand for
    sha256: str


def header_of(tokens: int) -> bytes:
    """The header of a shard of that many tokens."""
    header = np.zeros(HEADER_INTS, dtype="<i4")
    header[:3] = MAGIC, VERSION, tokens
    return header.tobytes()


def open_shard(path: Path) -> np.memmap:
    """The tokens of a shard, a read-only memory map (N,) of uint16. DataError when it is not exactly a whole shard."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):  # to open a pipe would wait for a writer
            kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or device"
            raise DataError(f"{path}: is not a file, got {kind}; a .bin shard is needed")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(HEADER_BYTES)
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file; a .bin shard is needed") from error
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read, got {error.strerror or error}; a readable .bin shard is needed"
        ) from error
    count = _check_header(path, head, size)
    try:
        return np.memmap(path, dtype="<u2", mode="r", offset=HEADER_BYTES, shape=(count,))
    except (OSError, ValueError) as error:  # ValueError: it has shrunk since
        raise DataError(f"{path}: cannot be mapped, got {error}") from error


def _check_header(path: Path, head: bytes, size: int) -> int:
    """The number of tokens that a header states, held against the size of its file in bytes."""
    if size < HEADER_BYTES or len(head) < HEADER_BYTES:
        raise DataError(f"{path}: is cut short, got {size} bytes; a shard has at least {HEADER_BYTES}")
    magic, version, count = (int(value) for value in np.frombuffer(head, dtype="<i4", count=3))
    if magic != MAGIC:
        raise DataError(f"{path}: is no token shard, got magic number {magic}; allowed is {MAGIC}")
    if version != VERSION:
        raise DataError(f"{path}: is of another version, got {version}; allowed is {VERSION}")
    if count <= 0:
        raise DataError(f"{path}: states an impossible number of tokens, got {count}; allowed is 1 to {MOST_TOKENS}")
    if size != HEADER_BYTES + 2 * count:
        kind = "is cut short" if size < HEADER_BYTES + 2 * count else "has bytes behind its last token"
        raise DataError(f"{path}: {kind}, got {size} bytes; {count} tokens take exactly {HEADER_BYTES + 2 * count}")
    return count


def read_record(path: Path, tokenizer: "Tokenizer") -> ShardRecord:
    """One pass over a shard, in constant memory. DataError when it is damaged, or of another tokenizer."""
    tokens = len(open_shard(path))
    sha256 = hashlib.sha256()
    counts = np.zeros(2**16, dtype=np.int64)
    try:
        with path.open("rb") as file:
            sha256.update(file.read(HEADER_BYTES))
            while part := file.read(READ_BYTES):
                sha256.update(part)
                counts += np.bincount(np.frombuffer(part[: len(part) // 2 * 2], dtype="<u2"), minlength=2**16)
    except OSError as error:
        raise DataError(f"{path}: cannot be read, got {error.strerror or error}") from error
    if counts.sum() != tokens:
        raise DataError(f"{path}: changed while it was read, got {counts.sum()} tokens; its header states {tokens}")
    if (largest := int(np.flatnonzero(counts)[-1])) > tokenizer.bos:
        raise DataError(
            f"{path}: holds ids of another tokenizer, got id {largest}; those of {tokenizer.name} are 0 to {tokenizer.bos}"
        )
    size = int(counts[: tokenizer.vocabulary] @ tokenizer.byte_lengths)
    return ShardRecord(path.name, tokens, int(counts[tokenizer.bos]), size, sha256.hexdigest())
