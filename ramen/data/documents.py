"""Rows of whole documents.

Every row starts at BOS and is filled by one document after the other; the last one is cut to fit. The label of a
token is the next token, at the end of a document BOS, and where a document is cut nothing (-100). What lies behind a
cut opens the next row, behind a BOS put in its place, so that every token is learned from once an epoch (`split`), or
is dropped (`crop`, as modded-nanogpt does).

A document begins at BOS and ends before the next one. What a shard holds before its first BOS belongs to no document
and is skipped. If any shard begins without BOS, the shards come from a program that cuts documents at their ends (modded-
nanogpt's tokenization does), and the last document of every shard counts as unfinished: it may go on elsewhere.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ramen.data.batches import IGNORED, Batch, Batches, Row
from ramen.data.shard import open_shard
from ramen.errors import DataError

LongDocuments = Literal["split", "crop"]
SCAN_TOKENS = 2**22  # looked at together when BOS is sought: bounds the memory


class DocumentBatches(Batches):
    """Rows without end: the same however they are grouped into batches, and after a resumption.

    The position is (epoch, shard, document, offset): `shard` and `document` count in this epoch's order, `offset` counts
    the tokens of the document that have been taken. Orders are drawn from (seed, epoch) and (seed, epoch, shard) alone, in
    bits that numpy promises to keep.
    """

    def __init__(self, shards: Sequence[Path], *, shuffle: bool, long_documents: LongDocuments, **base: Any):
        super().__init__(shards, **base)
        self.shuffle, self.crop = shuffle, long_documents == "crop"
        self.whole = all(open_shard(path)[0] == self.bos for path in self.shards)
        self._path: Path | None = None
        self.seek(0, 0, 0, 0)

    def take(self, rows: int) -> Batch:
        """The next rows."""
        tokens = np.empty((rows, self.sequence_length), dtype=np.int64)  # (B, T)
        targets = np.empty_like(tokens)
        for row, labels in zip(tokens, targets, strict=True):
            self._fill_row(row, labels)
        return self.batch_of(tokens, targets)

    def every_row(self) -> Iterator[Row]:
        """The rows of one epoch, if this is not shuffled; the last one is filled up with BOS that has no label."""
        row, labels = np.empty((2, self.sequence_length), dtype=np.int64)
        self.seek(0, 0, 0, 0)
        while self.epoch == 0:
            self._fill_row(row, labels, epochs=1)
            yield row, labels

    def position(self) -> dict[str, int]:
        """The place of the next token."""
        return {"epoch": self.epoch, "shard": self.shard, "document": self.document, "offset": self.offset}

    def seek(self, epoch: int, shard: int, document: int, offset: int) -> None:  # type: ignore[override]
        """Go to a position. DataError when there is none such."""
        if epoch < 0 or not 0 <= shard < len(self.shards):
            raise DataError(f"data position: got epoch {epoch}, shard {shard}; there are {len(self.shards)} shards")
        self.epoch, self.shard = epoch, shard
        self._open()
        if not 0 <= document < len(self._order):
            raise DataError(f"data position: got document {document}; {self._path} has {len(self._order)}")
        self._go_to(document)
        if not 0 <= offset < len(self._text):
            raise DataError(f"data position: got offset {offset}; the document has {len(self._text)} tokens")
        self.offset = offset

    def _fill_row(self, row: NDArray[np.int64], labels: NDArray[np.int64], epochs: int | None = None) -> None:
        """Fill one row (T,) and its labels, no further than the end of `epochs`."""
        filled = 0
        label = IGNORED
        unknown = []  # ends that may be none
        if self.offset:
            row[0] = self.bos
            filled = 1
        while filled < len(row) and (epochs is None or self.epoch < epochs):
            rest = self._text[self.offset :]
            piece = rest[: len(row) - filled]
            row[filled : filled + len(piece)] = piece
            filled += len(piece)
            label = IGNORED
            if len(piece) == len(rest):
                if self.whole or int(self._order[self.document]) < len(self._starts) - 1:
                    label = self.bos
                else:
                    unknown.append(filled - 1)
                self._next_document()
            elif self.crop:
                self.tokens_dropped += len(rest) - len(piece)
                self._next_document()
            else:
                self.offset += len(piece)
        row[filled:] = self.bos
        labels[:-1] = row[1:]
        labels[filled - 1 :] = IGNORED
        labels[filled - 1] = label
        labels[unknown] = IGNORED

    def _next_document(self) -> None:
        """Go to the start of the next document, which may be in the next shard or epoch."""
        if self.document + 1 < len(self._order):
            self._go_to(self.document + 1)
            return
        self.shard += 1
        if self.shard == len(self.shards):
            self.shard = 0
            self.epoch += 1
        self._open()
        self._go_to(0)

    def _open(self) -> None:
        """Map the shard at this position and draw the order of its documents."""
        index = self._draw(len(self.shards), 0)[self.shard]
        path = self.shards[index]
        if path != self._path:
            tokens = self.open_ids(path)
            starts = document_starts(tokens, self.bos)
            if not len(starts):
                raise DataError(
                    f"{path}: holds no document, got no BOS (id {self.bos}) among {len(tokens)} tokens; "
                    "each document opens with it"
                )
            self._path, self._tokens, self._starts = path, tokens, starts
        self._order = self._draw(len(self._starts), 1 + int(index))

    def _go_to(self, document: int) -> None:
        index = int(self._order[document])
        end = self._starts[index + 1] if index + 1 < len(self._starts) else None
        self._text = self._tokens[self._starts[index] : end]
        self.document = document
        self.offset = 0

    def _draw(self, count: int, purpose: int) -> NDArray[np.int64]:
        """A permutation of `count` things, fixed by (seed, epoch, purpose)."""
        if not self.shuffle:
            return np.arange(count)
        bits = np.random.Philox(np.random.SeedSequence(self.seed, spawn_key=(self.epoch, purpose)))
        return np.argsort(bits.random_raw(count), kind="stable")


def document_starts(tokens: NDArray[np.uint16], bos: int) -> NDArray[np.int64]:
    """The places of BOS in `tokens` (N,), in order."""
    blocks = [np.flatnonzero(tokens[at : at + SCAN_TOKENS] == bos) + at for at in range(0, len(tokens), SCAN_TOKENS)]
    return np.concatenate(blocks)
