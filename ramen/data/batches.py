"""Batches: rows of tokens with labels that are never wrong, and a position in the data that can be saved.

Three ways to cut rows: whole documents (documents.py), and windows of the tokens as they lie in the shards (windows.py),
one after the other or at random places; RowSettings (source.py) chooses.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ramen.data.shard import open_shard
from ramen.errors import DataError

IGNORED = -100  # what torch's cross entropy ignores
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

    document_mask = True  # False: a row is one document for attention, whatever it holds
    epoch: int  # of the next token
    tokens_dropped = 0

    def __init__(self, shards: Sequence[Path], *, bos: int, sequence_length: int, seed: int):
        if not shards:
            raise DataError("data: there is no shard to read, got an empty list; at least one is needed")
        self.shards, self.bos, self.sequence_length, self.seed = tuple(shards), bos, sequence_length, seed

    @abstractmethod
    def take(self, rows: int) -> Batch:
        """The next rows."""

    @abstractmethod
    def every_row(self) -> Iterator[Row]:
        """The rows of one epoch in file order; the last one of a shard may be filled up with BOS that has no label."""

    @abstractmethod
    def position(self) -> dict[str, int]:
        """The place of the next row."""

    @abstractmethod
    def seek(self, **position: int) -> None:
        """Go to a position. DataError when there is none such."""

    def state_dict(self) -> dict[str, int]:
        """The position in integers; a position in these shards, with this seed and these settings (the caller's to check)."""
        return {**self.position(), "tokens_dropped": self.tokens_dropped}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continue exactly where `state` was taken. DataError when it is no position here."""
        if missing := self.state_dict().keys() - state.keys():
            raise DataError(f"data state: is incomplete, got no {', '.join(sorted(missing))}")
        self.seek(**{key: int(state[key]) for key in self.position()})
        self.tokens_dropped = int(state["tokens_dropped"])

    def batch_of(self, tokens: NDArray[np.int64], targets: NDArray[np.int64]) -> Batch:
        """The batch of rows (B, T)."""
        documents = 1 + (tokens[:, 1:] == self.bos).sum(axis=1) if self.document_mask else np.ones(len(tokens), int)
        counted = int(np.count_nonzero(targets != IGNORED))
        return Batch(torch.from_numpy(tokens), torch.from_numpy(targets), counted, tuple(documents.tolist()))

    def open_ids(self, path: Path) -> NDArray[np.uint16]:
        """The ids of a shard (N,). DataError when they are those of another tokenizer."""
        ids = open_shard(path).view(np.ndarray)
        if (largest := int(ids.max())) > self.bos:
            raise DataError(
                f"{path}: holds ids of another tokenizer, got id {largest}; allowed are 0 to {self.bos}, which is BOS"
            )
        return ids
