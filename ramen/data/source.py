"""The common side of all data for a run, and of all text corpora: the path from text to a prepared Dataset.

A text corpus says what its documents are; see shakespeare.py (embedded), python.py (installed packages), text.py (your own
files), hub.py (Hugging Face). pretokenized.py has shards from the start.
"""

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from ramen.data.batches import Batch, Batches
from ramen.data.dataset import TOKENIZER, Dataset, open_dataset, settings_digest
from ramen.data.documents import DocumentBatches, LongDocuments
from ramen.data.prepare import prepare
from ramen.data.shard import LARGEST_ID, MOST_TOKENS
from ramen.data.split import Holdout
from ramen.data.tokenizer import char_tokenizer, load_tokenizer
from ramen.data.windows import ContiguousBatches, RandomBatches
from ramen.errors import ConfigError, DataError

Batching = Literal["documents", "contiguous", "random"]
Validation = Literal["spread", "first"]
FIXED_VOCABULARIES = {"byte": 257, "gpt2": 50257}

log = logging.getLogger("ramen")


@dataclass(frozen=True)
class RowSettings:
    """Settings that cut rows from shards, see conf/data; `skip_bos`: windows leave out the BOS of the first document."""

    sequence_length: int
    batching: Batching
    long_documents: LongDocuments
    validation: Validation
    validation_tokens: int | None
    skip_bos: bool

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
        return windows(shards, skip_bos=self.skip_bos, **base)

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


class Source(ABC):
    """Data of a run: a Dataset, and the settings of rows made of it."""

    skip_bos = False

    def __init__(
        self,
        *,
        folder: str,
        sequence_length: int,
        batching: Batching,
        long_documents: LongDocuments,
        validation: Validation,
        validation_tokens: int | None,
    ):
        check_range("sequence_length", sequence_length, 2, MOST_TOKENS)
        if validation_tokens is not None:
            check_range("validation_tokens", validation_tokens, 1, MOST_TOKENS)
        self.folder = Path(os.path.expanduser(folder))  # noqa: PTH111 - Path's raises for a user that is not there
        self.rows = RowSettings(sequence_length, batching, long_documents, validation, validation_tokens, self.skip_bos)

    @property
    @abstractmethod
    def vocabulary(self) -> int:
        """The number of ids, BOS (the last one) included; known before shards are read."""

    @abstractmethod
    def dataset(self, progress: bool = True) -> Dataset:
        """The data, made ready now if it is not yet. DataError when it cannot be, or is damaged."""


class TextSource(Source):
    """A corpus of documents, tokenized once into a folder of shards and read from there ever after."""

    name: ClassVar[str]
    workers = 1  # threads that tokenize
    skip_bos = True

    def __init__(
        self,
        *,
        tokenizer: Literal["byte", "char", "bpe", "gpt2"],
        bpe_vocabulary: int,
        holdout: Holdout,
        validation_fraction: float,
        shard_tokens: int,
        **base: Any,
    ):
        super().__init__(**base)
        check_range("bpe_vocabulary", bpe_vocabulary, 258, LARGEST_ID + 1)
        check_range("shard_tokens", shard_tokens, 1, 10**9)
        if not 0 < validation_fraction < 1:
            raise ConfigError(
                f"data.validation_fraction: out of range, got {validation_fraction}; allowed is above 0 and below 1"
            )
        self.tokenizer = tokenizer
        self.bpe_vocabulary = bpe_vocabulary
        self.holdout: Holdout = holdout
        self.validation_fraction = validation_fraction
        self.shard_tokens = shard_tokens
        self.skipped_rows = 0  # that hold null in place of a text

    @abstractmethod
    def documents(self) -> Iterator[str]:
        """The texts of the corpus, one a document, in the same order on every call."""

    @abstractmethod
    def fingerprint(self) -> Mapping[str, Any]:
        """Json values that tell this state of the corpus from any other; cheap to find out."""

    def origin(self) -> str | None:
        """The exact state that is read, where the fingerprint cannot tell it without a network; asked before preparing."""
        return None

    @property
    def vocabulary(self) -> int:
        return (
            self._characters
            if self.tokenizer == "char"
            else FIXED_VOCABULARIES.get(self.tokenizer, self.bpe_vocabulary)
        )

    @cached_property
    def _characters(self) -> int:
        path = self.prepared_folder() / TOKENIZER
        return (load_tokenizer(path) if path.exists() else char_tokenizer(self.documents())).vocabulary

    def settings(self) -> dict[str, Any]:
        """All that decides the contents of a prepared folder; batching (sequence_length, long_documents ...) does not."""
        return {
            "source": self.name,
            "fingerprint": dict(self.fingerprint()),
            "tokenizer": self.tokenizer,
            "bpe_vocabulary": self.bpe_vocabulary if self.tokenizer == "bpe" else None,
            "holdout": self.holdout,
            "validation_fraction": self.validation_fraction,
            "shard_tokens": self.shard_tokens,
        }

    def prepared_folder(self) -> Path:
        """The folder of this corpus: a readable name, then a digest of all settings, so that none meets another's folder."""
        size = self.bpe_vocabulary if self.tokenizer == "bpe" else ""
        return self.folder / f"{self.name}_{self.tokenizer}{size}_{settings_digest(self.settings())}"

    def dataset(self, progress: bool = True) -> Dataset:
        """The prepared data, prepared now if it is not there yet. DataError when it is there and damaged."""
        try:
            folder = self.prepared_folder()
            there = folder.exists()
        except OSError as error:  # forbidden, or too long a name
            raise DataError(f"data: cannot be looked for, got {error}; paths that can be read are needed") from error
        if not there:
            prepare(self, folder, progress=progress)
            if self.skipped_rows:
                log.warning("data: %d rows hold null in place of a text and are left out", self.skipped_rows)
        return open_dataset(folder, self.settings())

    def texts_of(self, rows: Iterable[tuple[str, Any]], column: str) -> Iterator[str]:
        """The texts under a column of rows, each with the name of its place; `a.b` is key b of column a. Null is left out."""
        for place, row in rows:
            value = row
            for key in [column] if isinstance(row, Mapping) and column in row else column.split("."):
                if not isinstance(value, Mapping) or key not in value:
                    there = ", ".join(map(str, value)) or "{}" if isinstance(value, Mapping) else type(value).__name__
                    raise DataError(f"{place}: has no text under data.text_column={column!r}, got {there}")
                value = value[key]
            if value is None:
                self.skipped_rows += 1
            elif isinstance(value, str):
                yield value
            else:
                raise DataError(f"{place}: data.text_column={column!r} holds no text, got {type(value).__name__}")


def check_range(key: str, value: int, low: int, high: int) -> None:
    """ConfigError unless low <= value <= high."""
    if not low <= value <= high:
        raise ConfigError(f"data.{key}: out of range, got {value}; allowed is {low} to {high}")


def threads(workers: int | None) -> int:
    """The number of threads: `workers`, or one for each core that this process may use."""
    if workers is not None:
        check_range("workers", workers, 1, 1024)
        return workers
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
