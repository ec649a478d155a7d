"""Preparation: documents -> tokenizer -> shards of both splits, in a folder that appears whole or not at all.

Everything is written to a hidden folder beside the target, which is renamed when it is complete. The shards finished in
it are the progress: a preparation that was killed, or has lost its source, goes on behind them; one that fails for good
leaves nothing. One process at a time works at a target, the others wait and use the result.

Threads tokenize chunks of about a megabyte: tiktoken works outside Python's lock. The result is the same, in the same order,
for any number of threads. Memory is a few chunks of text, however many documents there are and however long a shard is.
"""

import hashlib
import itertools
import logging
import math
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ramen.data.dataset import SPLITS, ShardIndex
from ramen.data.shard import MOST_TOKENS, ShardRecord, header_of, refusing
from ramen.data.tokenizer import BYTE_TOKENIZER, TOKENIZER, Tokenizer, char_tokenizer, gpt2_tokenizer, train_bpe
from ramen.errors import ConfigError, DataError, RamenError
from ramen.runs.lock import LOCK, discard, exclusive

if TYPE_CHECKING:
    from ramen.data.source import TextSource

WRITABLE = "data.folder needs to be writable, with room"
UNFINISHED = ".part"
CHUNK_CHARACTERS = 2**20
CHUNKS_PER_WORKER = 2  # held at once
Holdout = Literal["hash", "tail"]
Document = tuple[str, bool]  # its text, and True if it is held out
TokenizedDocument = tuple[NDArray[np.uint16], bool]  # its ids (N,), and True if it is held out

log = logging.getLogger("ramen")


class PausedError(DataError):
    """An interruption from which a later run continues."""


def position(text: str) -> float:
    """A number in [0, 1) that depends on the text alone, evenly spread."""
    digest = hashlib.sha256(text.encode(errors="replace")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


class Split:
    """The documents of a corpus that hold anything, each with its side.

    `hash`: a document is held out if the sha256 of its text, as a number in [0, 1), is below the fraction. This depends on
    neither order nor seed nor other documents, and equal documents are never on both sides. `tail`: the last fraction of the
    characters, as in nanoGPT; the document in which it begins is cut in two. A corpus of one document holds out its tail.
    """

    def __init__(self, texts: Callable[[], Iterable[str]], holdout: Holdout, fraction: float):
        self.texts, self.holdout, self.fraction = texts, holdout, fraction
        self.documents = 0
        self.lowest, self.highest = 1.0, 0.0  # positions of the documents

    def __iter__(self) -> Iterator[Document]:
        texts = (text for text in self.texts() if text.strip())
        first = list(itertools.islice(texts, 2))
        training = None  # characters that are not held out
        if len(first) == 1 or self.holdout == "tail":
            training = int(sum(len(text) for text in self.texts() if text.strip()) * (1 - self.fraction))
        if len(first) == 1 and self.holdout == "hash":
            percent = 100 * self.fraction
            log.warning("data: there is one document; its last %g %% are held out (data.holdout=tail)", percent)
        for text in itertools.chain(first, texts):
            if training is None:
                parts = [(text, position(text))]
            else:
                parts = [(text[:training], 1.0), (text[training:], 0.0)]
                training = max(0, training - len(text))
            for part, place in parts:
                if part:
                    self.documents += 1
                    self.lowest, self.highest = min(self.lowest, place), max(self.highest, place)
                    yield part, place < self.fraction

    def check(self) -> None:
        """ConfigError when one of the sides has no document. To be called when all have been taken."""
        if self.lowest >= self.highest:
            content = f"{self.documents} documents{' that are alike' * (self.documents > 1)}"
            remedy = "needed are two different ones, to train on and to hold out, or one that can be cut"
            raise ConfigError(f"data: the corpus has too little text, got {content}; {remedy}")
        if not self.lowest < self.fraction <= self.highest:
            few, side = ("low", "out") if self.fraction <= self.lowest else ("high", "in")
            low, high = math.ceil(self.lowest * 1e4 + 1) / 1e4, math.floor(self.highest * 1e4) / 1e4
            problem = f"is too {few} for these {self.documents} documents, none is held {side}, got {self.fraction}"
            raise ConfigError(f"data.validation_fraction: {problem}; allowed is {low:g} to {high:g}")


def prepare(source: "TextSource", folder: Path, progress: bool) -> None:
    """Tokenize `source` into `folder`, unless another process has done so."""
    partial = folder.with_name(f".{folder.name}.partial")
    with refusing(f"{folder}: cannot be prepared", WRITABLE), exclusive(partial, unless=folder) as locked:
        if locked:
            _fill(partial, source, progress)
            partial.rename(folder)
            (folder / LOCK).unlink(missing_ok=True)


def _fill(folder: Path, source: "TextSource", progress: bool) -> None:
    """Prepare in this folder, behind the shards in it if they are of the same source and tokenizer. An error that a later
    run would meet again removes it."""
    try:
        settings, documents = source.settings(), source.sides()
        tokenizer = _tokenizer(source, progress)
        index = ShardIndex(folder)
        about = {"origin": source.origin(), "tokenizer_sha256": tokenizer.hash}
        if not about.items() <= index.about.items():
            for path in folder.iterdir():
                if path.name != LOCK:
                    path.unlink()
            index.shards.clear()
        index.about = {**about}
        index.write()
        tokenizer.save(folder / TOKENIZER)
        write_shards(documents, index, tokenizer, source, progress)
        documents.check()
        if source.settings() != settings:
            raise DataError("data: the texts changed while they were read; start again when nothing writes to them")
        index.about["settings"] = settings
        index.write()
    except (RamenError, OSError) as error:
        if not isinstance(error, PausedError) or not any(folder.glob("*.bin")):
            discard(folder)
        raise


def _tokenizer(source: "TextSource", progress: bool) -> Tokenizer:
    if source.tokenizer == "byte":
        return BYTE_TOKENIZER
    if source.tokenizer == "gpt2":
        return gpt2_tokenizer()
    if source.tokenizer == "char":
        return char_tokenizer(source.documents())
    documents = source.sides()
    try:
        return train_bpe((text for text, is_held_out in documents if not is_held_out), source.bpe_vocabulary, progress)
    except ConfigError:
        documents.check()  # it may be too short because it has too few documents
        raise


def validation_shards(source: "TextSource", tokenizer: Tokenizer, folder: Path, whole: bool) -> list[ShardRecord]:
    """The validation split of a corpus, or the `whole` of it, tokenized into shards of a folder."""
    texts = source.documents() if whole else (text for text, is_held_out in source.sides() if is_held_out)
    index = ShardIndex(folder)
    write_shards(((text, True) for text in texts if text.strip()), index, tokenizer, source, progress=False)
    return [record for _, record in index.shards.values()]


def write_shards(
    documents: Iterable[Document], index: ShardIndex, tokenizer: Tokenizer, source: "TextSource", progress: bool
) -> None:
    """Tokenize documents into shards of both splits, behind those that the index lists, as the settings of the source say."""
    title, seconds = f"preparing {source.label}", 0.2 if sys.stderr.isatty() else 60
    bar = tqdm(desc=title, unit=" tokens", unit_scale=True, mininterval=seconds, disable=not progress)
    writers = [SplitWriter(split, index, tokenizer, source.shard_tokens) for split in SPLITS]  # by is_held_out
    with bar, writers[0], writers[1]:
        new = (document for document in documents if not writers[document[1]].skips_next())
        for ids, is_held_out in tokenize_all(new, tokenizer, source.threads):
            writers[is_held_out].write(ids)
            bar.update(len(ids))
        for writer in writers:
            writer.close_shard()


def chunks(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Lists of documents of about CHUNK_CHARACTERS, in order."""
    chunk: list[Document] = []
    size = 0
    for document in documents:
        chunk.append(document)
        size += len(document[0])
        if size >= CHUNK_CHARACTERS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def tokenize_all(documents: Iterable[Document], tokenizer: Tokenizer, workers: int) -> Iterator[TokenizedDocument]:
    """Each document in order: BOS and its ids, and its split."""
    opening = np.array([tokenizer.bos], dtype=np.uint16)

    def tokenize(chunk: list[Document]) -> list[TokenizedDocument]:
        return [(np.concatenate((opening, tokenizer.encode(text))), is_held_out) for text, is_held_out in chunk]

    pending: deque[Future[list[TokenizedDocument]]] = deque()
    with ThreadPoolExecutor(workers, "tokenize") as pool:
        for chunk in chunks(documents):
            pending.append(pool.submit(tokenize, chunk))
            if len(pending) >= CHUNKS_PER_WORKER * workers:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()


class SplitWriter(AbstractContextManager["SplitWriter"]):
    """Takes documents in order and leaves `<split>_<number>.bin` files, behind those that are finished in the folder.

    No document is cut: a shard is closed by the document that brings it to `shard_tokens`. Memory does not grow with a
    shard or a document. A shard gets its name when all of it is on disk.
    """

    def __init__(self, split: str, index: ShardIndex, tokenizer: Tokenizer, shard_tokens: int):
        self.split, self.number = split, int(split == "train")  # modded-nanogpt's training shards begin with 1
        self.index, self.tokenizer, self.shard_tokens = index, tokenizer, shard_tokens
        self.finished = 0  # documents in finished shards, not yet skipped
        self.tokens = 0  # in the shard that is being filled
        self.file: BinaryIO | None = None
        with suppress(DataError):  # the first that is not there or damaged, and those behind it, are written again
            while self.path.name in index.shards:
                self.finished += index.record(self.path, tokenizer).documents
                self.number += 1
        for path in index.path.parent.glob(f"{split}_*"):
            if path.name >= self.path.name or path.suffix == UNFINISHED:
                index.shards.pop(path.name, None)
                path.unlink()

    @property
    def path(self) -> Path:
        """The shard that is being filled, or will be next."""
        return self.index.path.with_name(f"{self.split}_{self.number:06d}.bin")

    def skips_next(self) -> bool:
        """True of as many documents as the finished shards hold."""
        self.finished -= 1
        return self.finished >= 0

    def write(self, ids: NDArray[np.uint16]) -> None:
        """Add a document; close the shard if it is full."""
        if self.tokens + len(ids) > MOST_TOKENS:
            raise DataError(f"{self.path}: a document is too long, got {len(ids)} tokens; allowed are {MOST_TOKENS}")
        if self.file is None:
            self.file = self.path.with_suffix(UNFINISHED).open("wb")
            self.file.write(header_of(0))
        self.file.write(ids.astype("<u2", copy=False).data)
        self.tokens += len(ids)
        if self.tokens >= self.shard_tokens:
            self.close_shard()

    def close_shard(self) -> None:
        """Give the shard its header and its name, if one is being filled."""
        if self.file is None:
            return
        self.file.seek(0)
        self.file.write(header_of(self.tokens))
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        self.path.with_suffix(UNFINISHED).rename(self.path)
        self.index.record(self.path, self.tokenizer)
        self.index.write()
        self.number += 1
        self.tokens, self.file = 0, None

    def __exit__(self, *error: object) -> None:
        if self.file:
            with suppress(OSError):  # unwritten bytes on a full disk
                self.file.close()
