"""How rows are cut from shards: the settings that decide it, and what follows from them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ramen.data.batches import Batch, Batches
from ramen.data.documents import DocumentBatches, LongDocuments
from ramen.data.windows import ContiguousBatches, RandomBatches
from ramen.errors import DataError

Batching = Literal["documents", "contiguous", "random"]
Validation = Literal["spread", "first"]


@dataclass(frozen=True)
class RowSettings:
    """See conf/data; `first_bos`: tokens to leave out at the beginning of the first shard where rows are windows."""

    sequence_length: int
    batching: Batching
    long_documents: LongDocuments
    validation: Validation
    validation_tokens: int | None
    first_bos: int

    @property
    def document_mask(self) -> bool:
        """True if attention stays within a document."""
        return self.batching == "documents"

    def batches(self, shards: Sequence[Path], bos: int, seed: int, shuffle: bool = True) -> Batches:
        """Rows of these shards without end, in an order drawn from the seed, or in file order."""
        base: dict[str, Any] = {"bos": bos, "sequence_length": self.sequence_length, "seed": seed}
        if self.batching == "documents":
            return DocumentBatches(shards, shuffle=shuffle, long_documents=self.long_documents, **base)
        windows = RandomBatches if self.batching == "random" and shuffle else ContiguousBatches
        return windows(shards, skip=self.first_bos, **base)

    def validation_batch(self, shards: Sequence[Path], bos: int) -> Batch:
        """Every row of the shards, once. With `validation_tokens`, rows of about that many: the first, or evenly spread,
        since the beginning of a corpus is no fair sample of it. DataError when nothing is left to predict."""
        batches = self.batches(shards, bos, seed=0, shuffle=False)
        count = sum(1 for _ in batches.every_row())
        tokens = self.validation_tokens
        chosen = count if tokens is None else min(count, max(1, round(tokens / self.sequence_length)))
        spread = ((2 * np.arange(chosen) + 1) * count // (2 * chosen)).tolist()
        places = {row: place for place, row in enumerate(range(chosen) if self.validation == "first" else spread)}
        rows = np.empty((2, chosen, self.sequence_length), dtype=np.int64)
        for number, row in enumerate(batches.every_row()):
            if number in places:
                rows[:, places[number]] = row
        batch = batches.batch_of(*rows)
        if not ((batch.targets >= 0) & (batch.targets != bos)).any():
            raise DataError(f"{shards[0]}: holds no text to predict, got {count} rows without any")
        return batch
