"""Documents to tokens, in this process or in several, with the same result in the same order.

Documents travel in chunks of about a megabyte. Worker processes are spawned, so that they share nothing with a process
that holds CUDA or threads; a script that prepares with several needs `if __name__ == "__main__":`. Only a bounded
number of chunks is on its way, and a corpus of a few chunks starts no process.
"""

import itertools
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ramen.data.split import Survey, place
from ramen.data.tokenizer import Tokenizer, load_tokenizer
from ramen.errors import DataError

CHUNK_CHARACTERS = 2**20
SERIAL_CHUNKS = 8  # a corpus with fewer is done sooner than workers start
CHUNKS_PER_WORKER = 2  # on their way at once

_worker: dict = {}  # of a worker process: its tokenizer and fraction


class PausedError(DataError):
    """What a later run continues from where it stopped."""


@dataclass(frozen=True)
class Documents:
    """Documents behind one another: their ids (N,), each opened by BOS, and their lengths in ids."""

    ids: NDArray[np.uint16]
    lengths: list[int]


@dataclass(frozen=True)
class Tokenized:
    """A chunk of documents by split; `read` counts all that the source gave, empty ones too."""

    train: Documents
    validation: Documents
    survey: Survey
    read: int


def chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    """Lists of texts of about CHUNK_CHARACTERS, in order."""
    chunk: list[str] = []
    size = 0
    for text in texts:
        chunk.append(text)
        size += len(text)
        if size >= CHUNK_CHARACTERS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def tokenize(texts: Sequence[str], tokenizer: Tokenizer, fraction: float) -> Tokenized:
    """One chunk. Documents that hold nothing are left out."""
    sides: tuple[list[NDArray[np.uint16]], list[NDArray[np.uint16]]] = ([], [])
    places = []
    for text in texts:
        if text.strip():
            places.append(place(text))
            sides[places[-1] < fraction].append(tokenizer.encode(text))
    found = Survey(len(places), min(places, default=1.0), max(places, default=0.0))
    train, validation = (_join(side, tokenizer.bos) for side in sides)
    return Tokenized(train, validation, found, len(texts))


def tokenize_all(
    parts: Iterator[list[str]], tokenizer: Tokenizer, tokenizer_file: Path, fraction: float, workers: int
) -> Generator[Tokenized, None, None]:
    """Every chunk, in order. `tokenizer_file` is where the workers find the tokenizer."""
    head = list(itertools.islice(parts, SERIAL_CHUNKS if workers > 1 else 0))
    every = itertools.chain(head, parts)
    if workers == 1 or len(head) < SERIAL_CHUNKS:
        for part in every:
            yield tokenize(part, tokenizer, fraction)
        return
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=spawn, initializer=_start, initargs=(tokenizer_file, fraction))
    pending: deque[Future[Tokenized]] = deque()
    try:
        for part in every:
            pending.append(_submit(pool, part))
            if len(pending) >= CHUNKS_PER_WORKER * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool as error:
        raise PausedError(
            "data.workers: a worker process has ended, killed for want of memory, or because the script has no "
            f"`if __name__ == '__main__':`, got {workers} workers; run again to continue, with fewer or data.workers=1"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _submit(pool: ProcessPoolExecutor, part: list[str]) -> "Future[Tokenized]":
    """Submit a chunk; a worker that is started for it inherits a blocked Ctrl-C, which might come before `_start` does."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return pool.submit(_tokenize, part)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def refuse_inside_a_worker() -> None:
    """DataError in a worker that is still importing a script without a guard, which would wait for itself for ever."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise DataError(
            "data.workers: this script starts its work when it is imported, got no `if __name__ == '__main__':` in it"
        )


def _join(documents: list[NDArray[np.uint16]], bos: int) -> Documents:
    if not documents:
        return Documents(np.empty(0, dtype=np.uint16), [])
    opening = np.array([bos], dtype=np.uint16)
    ids = np.concatenate([piece for document in documents for piece in (opening, document)])
    return Documents(ids, [1 + len(document) for document in documents])


def _start(tokenizer_file: Path, fraction: float) -> None:
    """Make this process a worker: it leaves Ctrl-C to its parent, and ends with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _worker.update(tokenizer=load_tokenizer(tokenizer_file), fraction=fraction)


def _end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


def _tokenize(texts: list[str]) -> Tokenized:
    return tokenize(texts, _worker["tokenizer"], _worker["fraction"])
