"""Batches: rows of tokens with their labels, and a position in the data that can be saved.

Rows of whole documents (DocumentBatches). Each row starts at BOS and is filled by one document after the other; the last one
is cut to fit. The label of a token is the next token, at the end of a document BOS, and at a cut nothing (-100). The rest
behind a cut opens the next row behind a BOS put in its place (`split`), or is dropped (`crop`, as modded-nanogpt does). Tokens
before the first BOS of a shard are skipped. If any shard begins without BOS, the program that wrote the shards cuts documents
at their ends (as modded-nanogpt's does), and the end of a shard is not taken for the end of a document.

Windows of the tokens in file order go across the ends of documents; the label is the next token of the shard. `contiguous`:
each batch takes the next tokens; the rest of a shard that is shorter than a batch is dropped (modded-nanogpt's track 3).
`random`: each row begins at a random place, drawn with replacement (nanoGPT).
Sources: https://github.com/KellerJordan/modded-nanogpt (records/track_3_optimization), https://github.com/karpathy/nanoGPT
(train.py). Differs from the sources: contiguous begins again at the end of the data; random draws by (seed, number of the
row), and no window crosses from one shard to the next.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ramen.data.shard import check_ids, open_shard
from ramen.errors import DataError

IGNORED = -100  # what torch's cross entropy ignores
SCAN_TOKENS = 2**22  # looked at together when BOS is sought: bounds the memory
LongDocuments = Literal["split", "crop"]
Row = tuple[NDArray[np.int64], NDArray[np.int64]]  # tokens (T,) and targets (T,)


@dataclass(frozen=True)
class Batch:
    """Rows, on the host or on a device; a target of -100 is not counted."""

    tokens: Tensor  # (B, T) int64
    targets: Tensor  # (B, T) int64
    counted: int  # targets to predict
    documents: tuple[int, ...] | None = None  # in each row, if that is known


class Batches(ABC):
    """Rows without end, epoch after epoch, from a position that can be saved."""

    POSITION: ClassVar[tuple[str, ...]]  # the attributes that say the place of the next row
    document_mask = False  # True: attention stays within a document; False: a row is one, whatever it holds
    epoch: int  # of the next token
    tokens_dropped = 0

    def __init__(self, shards: Sequence[Path], *, bos: int, sequence_length: int, seed: int, skip_bos: bool):
        if not shards:
            raise DataError("data: there is no shard to read, got an empty list; at least one is needed")
        self.shards, self.bos, self.sequence_length, self.seed = tuple(shards), bos, sequence_length, seed
        self.skip_bos = skip_bos  # leave out the BOS of the first document, before which nothing ends

    @abstractmethod
    def take(self, rows: int) -> Batch:
        """The next rows."""

    @abstractmethod
    def seek(self, *position: int) -> None:
        """Go to a position. DataError when there is none such."""

    def state_dict(self) -> dict[str, int]:
        """The position in integers; a position in these shards, with this seed and these settings (the caller's to check)."""
        return {name: getattr(self, name) for name in (*self.POSITION, "tokens_dropped")}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continue exactly where `state` was taken. DataError when it is no position here."""
        if missing := self.state_dict().keys() - state.keys():
            raise DataError(f"data state: is incomplete, got no {', '.join(sorted(missing))}")
        self.seek(*(int(state[name]) for name in self.POSITION))
        self.tokens_dropped = int(state["tokens_dropped"])

    def batch_of(self, tokens: NDArray[np.int64], targets: NDArray[np.int64]) -> Batch:
        """The batch of rows (B, T)."""
        documents = 1 + (tokens[:, 1:] == self.bos).sum(axis=1) if self.document_mask else np.ones(len(tokens), int)
        counted = int(np.count_nonzero(targets != IGNORED))
        return Batch(torch.from_numpy(tokens), torch.from_numpy(targets), counted, tuple(documents.tolist()))

    def every_row(self) -> Iterator[Row]:
        """The rows of one epoch in file order; the last one of a shard is filled up with BOS that has no label."""
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
        """The ids of a shard (N,). DataError when they are those of another tokenizer."""
        ids = open_shard(self.shards[number]).view(np.ndarray)
        check_ids(self.shards[number], int(ids.max()), self.bos)
        return ids[1:] if self.skip_bos and number == 0 and ids[0] == self.bos else ids


def check_position(part: str, value: int, count: float = math.inf) -> None:
    """DataError unless 0 <= value < count."""
    if not 0 <= value < count:
        raise DataError(f"data position: out of range, got {part} {value}; allowed is 0 to {count - 1}")


class DocumentBatches(Batches):
    """Rows of whole documents: the same however they are grouped into batches, and after a resumption.

    In the position, `shard` and `document` count in this epoch's order, `offset` counts the tokens of the document that have
    been taken. Orders are drawn from (seed, epoch) and (seed, epoch, shard) alone, in bits that numpy promises to keep.
    """

    POSITION = ("epoch", "shard", "document", "offset")
    document_mask = True

    def __init__(self, shards: Sequence[Path], *, shuffle: bool, long_documents: LongDocuments, **base: Any):
        super().__init__(shards, skip_bos=False, **base)
        self.shuffle, self.crop = shuffle, long_documents == "crop"
        self.whole = all(open_shard(path)[0] == self.bos for path in self.shards)
        self._index, self.epoch, self.shard = -1, -1, -1
        self.seek(0, 0, 0, 0)

    def take(self, rows: int) -> Batch:
        tokens = np.empty((rows, self.sequence_length), dtype=np.int64)  # (B, T)
        targets = np.empty_like(tokens)
        for row, labels in zip(tokens, targets, strict=True):
            self._fill_row(row, labels)
        return self.batch_of(tokens, targets)

    def every_row(self) -> Iterator[Row]:  # in file order if this is not shuffled
        row, labels = np.empty((2, self.sequence_length), dtype=np.int64)
        self.seek(0, 0, 0, 0)
        while self.epoch == 0:
            self._fill_row(row, labels, epochs=1)
            yield row, labels

    def seek(self, epoch: int, shard: int, document: int, offset: int) -> None:  # type: ignore[override]
        check_position("epoch", epoch)
        check_position("shard", shard, len(self.shards))
        if (epoch, shard) != (self.epoch, self.shard):
            self.epoch, self.shard = epoch, shard
            self._open()
        check_position("document", document, len(self._order))
        index = int(self._order[document])
        end = self._starts[index + 1] if index + 1 < len(self._starts) else None
        self._text = self._tokens[self._starts[index] : end]
        check_position("offset", offset, len(self._text))
        self.document, self.offset = document, offset

    def _fill_row(self, row: NDArray[np.int64], labels: NDArray[np.int64], epochs: float = math.inf) -> None:
        """Fill one row (T,) and its labels, no further than the end of `epochs`."""
        unknown = []  # ends that may be none
        label = IGNORED
        filled = int(self.offset > 0)  # 1 within a document, where the row opens with a BOS put there
        row[:filled] = self.bos
        while filled < len(row) and self.epoch < epochs:
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
        shard_ended, document = divmod(self.document + 1, len(self._order))
        epoch_ended, shard = divmod(self.shard + shard_ended, len(self.shards))
        self.seek(self.epoch + epoch_ended, shard, document, 0)

    def _open(self) -> None:
        """Map the shard at this position and draw the order of its documents."""
        index = int(self._draw(len(self.shards), 0)[self.shard])
        if index != self._index:
            tokens = self._ids(index)
            starts = document_starts(tokens, self.bos)
            if not len(starts):
                content = f"no BOS (id {self.bos}) among {len(tokens)} tokens"
                raise DataError(f"{self.shards[index]}: holds no document, got {content}; each document opens with BOS")
            self._index, self._tokens, self._starts = index, tokens, starts
        self._order = self._draw(len(self._starts), 1 + index)

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


class ContiguousBatches(Batches):
    """The next tokens in order."""

    POSITION = ("epoch", "shard", "token")

    def __init__(self, shards: Sequence[Path], **base: Any):
        super().__init__(shards, **base)
        self.seek(0, 0, 0)

    def take(self, rows: int) -> Batch:
        """The next rows. DataError when no shard has as many."""
        size = rows * self.sequence_length
        for _ in range(len(self.shards) + 1):
            if self.token + size + 1 < len(self._tokens):
                window = self._tokens[self.token : self.token + size + 1].astype(np.int64)
                self.token += size
                shape = rows, self.sequence_length
                return self.batch_of(window[:-1].reshape(shape), window[1:].reshape(shape))
            self.tokens_dropped += len(self._tokens) - self.token
            ended, shard = divmod(self.shard + 1, len(self.shards))
            self.seek(self.epoch + ended, shard, 0)
        remedy = "a shorter trainer.batch_tokens or a larger data.shard_tokens is needed"
        raise DataError(f"data.batching=contiguous: no shard is longer than a batch, got {size} tokens; {remedy}")

    def seek(self, epoch: int, shard: int, token: int) -> None:  # type: ignore[override]
        check_position("epoch", epoch)
        check_position("shard", shard, len(self.shards))
        self.epoch, self.shard, self.token, self._tokens = epoch, shard, token, self._ids(shard)
        check_position("token", token, len(self._tokens) + 1)


class RandomBatches(Batches):
    """Windows at random places, each place as likely as any other."""

    POSITION = ("row",)  # the number of rows that have been drawn

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
        bits = np.random.Philox(np.random.SeedSequence(self.seed)).advance(self.row)  # by blocks of four numbers
        places = (bits.random_raw(4 * rows)[::4] % np.uint64(self._ends[-1])).astype(np.int64)
        numbers = np.searchsorted(self._ends, places, side="right")
        starts = places - np.append(0, self._ends)[numbers]
        windows = np.empty((rows, self.sequence_length + 1), dtype=np.int64)
        for window, number, start in zip(windows, numbers, starts, strict=True):
            window[:] = self._all[number][start : start + len(window)]
        self.row += rows
        return self.batch_of(windows[:, :-1].copy(), windows[:, 1:].copy())

    def seek(self, row: int) -> None:  # type: ignore[override]
        check_position("row", row)
        self.row = row
