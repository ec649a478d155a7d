"""Batches: rows of tokens with labels that are never wrong, and a position in the data that can be saved.

Three ways to cut rows: whole documents (documents.py), and windows of the tokens as they lie in the shards (windows.py),
one after the other or at random places; RowSettings (rows.py) chooses.
"""

import hashlib
import os
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
FINGERPRINT_TOKENS = 4096
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

    def __init__(self, shards: Sequence[Path], *, bos: int, sequence_length: int, seed: int, **settings: int):
        if not shards:
            raise DataError("data: there is no shard to read, got an empty list; at least one is needed")
        self.shards, self.bos, self.sequence_length, self.seed = tuple(shards), bos, sequence_length, seed
        # All that a position depends on, in integers.
        self._identity = {
            "shards": _fingerprint(self.shards),
            "bos": bos,
            "seed": seed,
            "sequence_length": sequence_length,
        }
        self._identity |= settings

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
        """The position, and what it is a position in; integers only."""
        return {**self.position(), "tokens_dropped": self.tokens_dropped, **self._identity}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continue exactly where `state` was taken. DataError when it was taken from other shards or settings."""
        for key, own in self._identity.items():
            if state.get(key) != own:
                raise DataError(f"data state: {key} is not that of this run, got {state.get(key)}; allowed is {own}")
        position = self.position()
        if missing := [key for key in (*position, "tokens_dropped") if key not in state]:
            raise DataError(f"data state: is incomplete, got no {', '.join(missing)}")
        self.seek(**{key: int(state[key]) for key in position})
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


def _fingerprint(shards: Sequence[Path]) -> int:
    """An integer of 62 bits that tells these shards, in this order, from others by name, size and first tokens."""
    state = hashlib.sha256()
    for path in shards:
        state.update(b"%s %d\n" % (os.fsencode(path.name), path.stat().st_size))
        state.update(open_shard(path)[:FINGERPRINT_TOKENS].tobytes())
    return int.from_bytes(state.digest()[:8], "big") >> 2
