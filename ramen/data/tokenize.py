"""Documents to tokens, in threads, with the same result in the same order for any number of them.

Documents travel in chunks of about a megabyte. tiktoken works outside Python's lock, so threads share the work as
processes would. Only a bounded number of chunks is held at a time.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ramen.data.split import Document
from ramen.data.tokenizer import Tokenizer

CHUNK_CHARACTERS = 2**20
CHUNKS_PER_WORKER = 2  # held at once


@dataclass(frozen=True)
class TokenizedDocuments:
    """Documents one after the other: their ids (N,), each opened by BOS, and their lengths in ids."""

    ids: NDArray[np.uint16]
    lengths: list[int]


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


def tokenize(texts: Sequence[str], tokenizer: Tokenizer) -> TokenizedDocuments:
    """The documents of one chunk."""
    bos = np.array([tokenizer.bos], dtype=np.uint16)
    encoded = [tokenizer.encode(text) for text in texts]
    ids = np.concatenate([bos[:0], *(part for document in encoded for part in (bos, document))])
    return TokenizedDocuments(ids, [1 + len(document) for document in encoded])


def tokenize_all(
    documents: Iterable[Document], tokenizer: Tokenizer, workers: int
) -> Iterator[tuple[TokenizedDocuments, TokenizedDocuments]]:
    """(training, validation) of each chunk, in order."""

    def both(chunk: list[Document]) -> tuple[TokenizedDocuments, TokenizedDocuments]:
        train, validation = ([text for text, held_out in chunk if held_out is side] for side in (False, True))
        return tokenize(train, tokenizer), tokenize(validation, tokenizer)

    pending: deque[Future[tuple[TokenizedDocuments, TokenizedDocuments]]] = deque()
    pool = ThreadPoolExecutor(workers, "tokenize")
    try:
        for chunk in chunks(documents):
            pending.append(pool.submit(both, chunk))
            if len(pending) >= CHUNKS_PER_WORKER * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
