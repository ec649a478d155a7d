"""Batches: rows of documents, with labels that are never wrong.

Every row starts at BOS and is filled by one document after the other; the last one is cut to fit. The label of a
token is the next token, at the end of a document BOS, and where a document is cut nothing (-100). What lies behind a
cut opens the next row, behind a BOS put in its place, so that every token is learned from once an epoch (`split`), or
is dropped (`crop`, as modded-nanogpt does).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ramen.data.documents import DocumentStream
from ramen.errors import DataError

IGNORED = -100  # what torch's cross entropy ignores
POSITION = ("epoch", "shard", "document", "offset")
LongDocuments = Literal["split", "crop"]


@dataclass(frozen=True)
class Batch:
    """tokens and targets (B, T) int64; a target of -100 is not counted."""

    tokens: NDArray[np.int64]
    targets: NDArray[np.int64]

    @property
    def counted(self) -> int:
        """How many targets there are to predict."""
        return int(np.count_nonzero(self.targets != IGNORED))


class Batches:
    """Rows without end, epoch after epoch: the same however they are grouped into batches, and after a resumption."""

    def __init__(
        self,
        shards: Sequence[Path],
        *,
        bos: int,
        sequence_length: int,
        seed: int,
        shuffle: bool,
        long_documents: LongDocuments,
    ):
        self.sequence_length = sequence_length
        self.crop = long_documents == "crop"
        self.tokens_dropped = 0
        self._stream = DocumentStream(shards, bos=bos, seed=seed, shuffle=shuffle)

    @property
    def bos(self) -> int:
        """The id that opens a document, and a row."""
        return self._stream.bos

    @property
    def epoch(self) -> int:
        """The epoch of the next token: how often the shards have been read to the end."""
        return self._stream.epoch

    def take(self, rows: int) -> Batch:
        """The next rows."""
        tokens = np.empty((rows, self.sequence_length), dtype=np.int64)  # (B, T)
        targets = np.empty_like(tokens)
        for row, labels in zip(tokens, targets, strict=True):
            self.tokens_dropped += _fill_row(self._stream, row, labels, self.crop)
        return Batch(tokens, targets)

    def state_dict(self) -> dict[str, int]:
        """The position, and what it is a position in; integers only."""
        position = {key: getattr(self._stream, key) for key in POSITION}
        return {**position, "tokens_dropped": self.tokens_dropped, **self._identity()}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continue exactly where `state` was taken. DataError when it was taken from other shards or settings."""
        for key, own in self._identity().items():
            if state.get(key) != own:
                raise DataError(f"data state: {key} is not that of this run, got {state.get(key)}; allowed is {own}")
        if missing := [key for key in (*POSITION, "tokens_dropped") if key not in state]:
            raise DataError(f"data state: is incomplete, got no {', '.join(missing)}")
        self._stream.seek(*(int(state[key]) for key in POSITION))
        self.tokens_dropped = int(state["tokens_dropped"])

    def _identity(self) -> dict[str, int]:
        stream = self._stream
        return {
            "shards": stream.fingerprint,
            "bos": stream.bos,
            "seed": stream.seed,
            "shuffle": int(stream.shuffle),
            "sequence_length": self.sequence_length,
            "crop": int(self.crop),
        }


def validation_rows(
    shards: Sequence[Path], *, bos: int, sequence_length: int, long_documents: LongDocuments, tokens: int | None
) -> Batch:
    """Every row of the shards, once, in file order; the last one is filled up with BOS that has no label.

    With `tokens`, rows of about that many tokens, evenly spread: the beginning of a corpus is no fair sample of it.
    """

    def every_row() -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        row = np.empty(sequence_length, dtype=np.int64)
        labels = np.empty_like(row)
        one = Batches(
            shards, bos=bos, sequence_length=sequence_length, seed=0, shuffle=False, long_documents=long_documents
        )
        while one.epoch == 0:
            _fill_row(one._stream, row, labels, one.crop, epochs=1)
            yield row, labels

    rows = sum(1 for _ in every_row())
    chosen = rows if tokens is None else min(rows, max(1, round(tokens / sequence_length)))
    wanted = ((2 * np.arange(chosen) + 1) * rows // (2 * chosen)).tolist()
    batch = Batch(
        np.empty((chosen, sequence_length), dtype=np.int64), np.empty((chosen, sequence_length), dtype=np.int64)
    )
    places = {at: place for place, at in enumerate(wanted)}
    for at, (row, labels) in enumerate(every_row()):
        if at in places:
            batch.tokens[places[at]], batch.targets[places[at]] = row, labels
    return batch


def _fill_row(
    stream: DocumentStream, row: NDArray[np.int64], labels: NDArray[np.int64], crop: bool, epochs: int | None = None
) -> int:
    """Fill one row (T,) and its labels, no further than the end of `epochs`. Returns how many tokens were dropped."""
    filled = dropped = 0
    label = IGNORED
    unknown = []  # ends that may be none
    if stream.offset:
        row[0] = stream.bos
        filled = 1
    while filled < len(row) and (epochs is None or stream.epoch < epochs):
        rest = stream.rest()
        piece = rest[: len(row) - filled]
        row[filled : filled + len(piece)] = piece
        filled += len(piece)
        label = IGNORED
        if len(piece) == len(rest):
            if stream.finished:
                label = stream.bos
            else:
                unknown.append(filled - 1)
            stream.skip()
        elif crop:
            dropped += len(rest) - len(piece)
            stream.skip()
        else:
            stream.take(len(piece))
    row[filled:] = stream.bos
    labels[:-1] = row[1:]
    labels[filled - 1 :] = IGNORED
    labels[filled - 1] = label
    labels[unknown] = IGNORED
    return dropped
