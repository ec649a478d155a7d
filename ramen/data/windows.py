"""Rows that are windows of the tokens as they lie in the shards, across the ends of documents, without a document mask.

The label of a token is the next token of the shard, whatever it is. `contiguous`: each batch takes the next tokens in
order; the rest of a shard that is shorter than a batch is dropped (modded-nanogpt's track 3). `random`: each row begins at
a random place, drawn with replacement (nanoGPT). Sources: https://github.com/KellerJordan/modded-nanogpt
(records/track_3_optimization), https://github.com/karpathy/nanoGPT (train.py).
Differs from the sources: contiguous begins again at the end of the data; random draws by (seed, number of the row), and
with several shards no window crosses from one to the next.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ramen.data.batches import IGNORED, Batch, Batches, Row
from ramen.errors import DataError


class WindowBatches(Batches):
    """Base of both orders. `skip_bos`: leave out the BOS of the first document, before which nothing ends."""

    document_mask = False

    def __init__(self, shards: Sequence[Path], *, skip_bos: bool, **base: Any):
        super().__init__(shards, **base)
        self.skip_bos = skip_bos

    def every_row(self) -> Iterator[Row]:
        """The windows of each shard in order; its last one is filled up with BOS that has no label."""
        length = self.sequence_length
        for number in range(len(self.shards)):
            ids = self._ids(number)
            for start in range(0, len(ids) - 1, length):
                window = ids[start : start + length + 1].astype(np.int64)
                short = length + 1 - len(window)
                window = np.pad(window, (0, short), constant_values=self.bos)
                labels = window[1:].copy()
                labels[length - short :] = IGNORED
                yield window[:-1], labels

    def _ids(self, number: int) -> NDArray[np.uint16]:
        ids = self.open_ids(self.shards[number])
        return ids[1:] if self.skip_bos and number == 0 and ids[0] == self.bos else ids


class ContiguousBatches(WindowBatches):
    """The next tokens in order."""

    def __init__(self, shards: Sequence[Path], **base: Any):
        super().__init__(shards, **base)
        self.seek(0, 0, 0)

    def take(self, rows: int) -> Batch:
        """The next rows. DataError when no shard has as many."""
        size = rows * self.sequence_length
        for _ in range(len(self.shards) + 1):
            if self.token + size + 1 < len(self._now):
                window = self._now[self.token : self.token + size + 1].astype(np.int64)
                self.token += size
                shape = rows, self.sequence_length
                return self.batch_of(window[:-1].reshape(shape), window[1:].reshape(shape))
            self.tokens_dropped += len(self._now) - self.token
            turn = self.shard + 1 == len(self.shards)
            self.seek(self.epoch + turn, 0 if turn else self.shard + 1, 0)
        raise DataError(
            f"data.batching=contiguous: no shard is longer than a batch, got a batch of {size} tokens; a shorter "
            "trainer.batch_tokens or a larger data.shard_tokens is needed"
        )

    def position(self) -> dict[str, int]:
        """Of the next token."""
        return {"epoch": self.epoch, "shard": self.shard, "token": self.token}

    def seek(self, epoch: int, shard: int, token: int) -> None:  # type: ignore[override]
        """Go to a position. DataError when there is none such."""
        if epoch < 0 or not 0 <= shard < len(self.shards):
            raise DataError(f"data position: got epoch {epoch}, shard {shard}; there are {len(self.shards)} shards")
        self.epoch, self.shard, self.token, self._now = epoch, shard, token, self._ids(shard)
        if not 0 <= token <= len(self._now):
            raise DataError(f"data position: got token {token}; the shard has {len(self._now)}")


class RandomBatches(WindowBatches):
    """Windows at random places, each place as likely as any other."""

    def __init__(self, shards: Sequence[Path], **base: Any):
        super().__init__(shards, **base)
        self._all = [self._ids(number) for number in range(len(self.shards))]
        self._ends = np.cumsum([max(0, len(ids) - self.sequence_length) for ids in self._all])
        self.row = 0
        if not self._ends[-1]:
            raise DataError(f"data.sequence_length: no shard has as many tokens, got {self.sequence_length}")

    @property
    def epoch(self) -> int:  # type: ignore[override]
        """The number of times that as many tokens have been taken as there are."""
        return self.row * self.sequence_length // sum(map(len, self._all))

    def take(self, rows: int) -> Batch:
        """The next rows."""
        places = self._draw(rows)
        numbers = np.searchsorted(self._ends, places, side="right")
        starts = places - np.append(0, self._ends)[numbers]
        windows = np.empty((rows, self.sequence_length + 1), dtype=np.int64)
        for window, number, start in zip(windows, numbers, starts, strict=True):
            window[:] = self._all[number][start : start + len(window)]
        self.row += rows
        return self.batch_of(windows[:, :-1].copy(), windows[:, 1:].copy())

    def position(self) -> dict[str, int]:
        """The number of rows that have been drawn."""
        return {"row": self.row}

    def seek(self, row: int) -> None:  # type: ignore[override]
        """Go to a position. DataError when there is none such."""
        if row < 0:
            raise DataError(f"data position: got row {row}; allowed is 0 or more")
        self.row = row

    def _draw(self, rows: int) -> NDArray[np.int64]:
        """Places of the next windows, fixed by (seed, number of the row)."""
        bits = np.random.Philox(np.random.SeedSequence(self.seed)).advance(self.row)  # by blocks of four numbers
        return (bits.random_raw(4 * rows)[::4] % np.uint64(self._ends[-1])).astype(np.int64)
