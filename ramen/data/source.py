"""Base classes of all data for a run, and of all corpora of text (shakespeare, python, text, hub)."""

import itertools
import logging
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ramen.data.batches import Batch, Batches, ContiguousBatches, DocumentBatches, LongDocuments, RandomBatches
from ramen.data.dataset import Dataset, open_dataset
from ramen.data.prepare import Holdout, Split, prepare
from ramen.data.shard import LARGEST_ID, MOST_TOKENS, refusing
from ramen.data.tokenizer import TOKENIZER, char_tokenizer, load_tokenizer
from ramen.errors import DataError
from ramen.ops.checks import check_range
from ramen.runs.atomic import sha256_of

FORMAT = 4  # raise it when what is prepared from equal settings changes
FIXED_VOCABULARIES = {"byte": 257, "gpt2": 50257}

log = logging.getLogger("ramen")


@dataclass(kw_only=True, eq=False)
class Source(ABC):
    """Data of a run: a Dataset, and the rows made of it. The fields are the keys of conf/data."""

    folder: str
    sequence_length: int
    batching: Literal["documents", "contiguous", "random"]
    long_documents: LongDocuments
    validation: Literal["spread", "first"]
    validation_tokens: int | None

    skip_bos = False  # True: windows leave out the BOS of the first document, before which nothing ends

    def __post_init__(self) -> None:
        check_range(f"[2, {MOST_TOKENS}]", sequence_length=self.sequence_length)
        check_range(f"[1, {MOST_TOKENS}] or null", validation_tokens=self.validation_tokens)
        self.root = Path(os.path.expanduser(self.folder))  # noqa: PTH111 - Path's raises for a user that is not there

    @property
    @abstractmethod
    def vocabulary(self) -> int:
        """The number of ids, BOS (the last one) included; known before shards are read."""

    @abstractmethod
    def dataset(self, progress: bool = True) -> Dataset:
        """The data, made ready now if it is not yet. DataError when it cannot be, or is damaged."""

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
        wanted = count if self.validation_tokens is None else round(self.validation_tokens / self.sequence_length)
        chosen = min(count, max(1, wanted))
        places = np.arange(chosen)
        if self.validation == "spread":
            places = (2 * places + 1) * count // (2 * chosen)
        rows = np.empty((2, chosen, self.sequence_length), dtype=np.int64)
        is_chosen = np.isin(np.arange(count), places)
        for number, row in enumerate(itertools.compress(batches.every_row(), is_chosen)):
            rows[:, number] = row
        batch = batches.batch_of(*rows)
        if not ((batch.targets >= 0) & (batch.targets != bos)).any():
            raise DataError(f"{shards[0]}: holds no text to predict, got {count} rows without any")
        return batch


@dataclass(kw_only=True, eq=False)
class TextSource(Source):
    """A corpus of documents, tokenized once into a folder of shards and read from there ever after."""

    tokenizer: Literal["byte", "char", "bpe", "gpt2"]
    bpe_vocabulary: int
    holdout: Holdout
    validation_fraction: float
    shard_tokens: int
    workers: int | None  # threads that tokenize

    skip_bos = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(f"[258, {LARGEST_ID + 1}]", bpe_vocabulary=self.bpe_vocabulary)
        check_range("(0, 1)", validation_fraction=self.validation_fraction)
        check_range("[1, 1000000000]", shard_tokens=self.shard_tokens)
        check_range("[1, 1024] or null", workers=self.workers)
        cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
        self.threads = self.workers or cores
        self.label = type(self).__name__.lower()
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

    def sides(self) -> Split:
        """The documents, each with its side."""
        return Split(self.documents, self.holdout, self.validation_fraction)

    @cached_property
    def vocabulary(self) -> int:
        if self.tokenizer == "char":
            path = self.prepared_folder() / TOKENIZER
            return (load_tokenizer(path) if path.exists() else char_tokenizer(self.documents())).vocabulary
        return FIXED_VOCABULARIES.get(self.tokenizer, self.bpe_vocabulary)

    def settings(self) -> dict[str, Any]:
        """All that decides the contents of a prepared folder; batching (sequence_length, long_documents ...) does not."""
        return {
            "source": self.label,
            "fingerprint": dict(self.fingerprint()),
            "tokenizer": self.tokenizer,
            "bpe_vocabulary": self.bpe_vocabulary if self.tokenizer == "bpe" else None,
            "holdout": self.holdout,
            "validation_fraction": self.validation_fraction,
            "shard_tokens": self.shard_tokens,
        }

    def prepared_folder(self) -> Path:
        """The folder of this corpus: a readable name, then a digest of all settings, so that none meets another's folder."""
        settings = self.settings()
        digest = sha256_of({"format": FORMAT, **settings})[:8]
        return self.root / f"{self.label}_{self.tokenizer}{settings['bpe_vocabulary'] or ''}_{digest}"

    def dataset(self, progress: bool = True) -> Dataset:
        """The prepared data, prepared now if it is not there yet. DataError when it is there and damaged."""
        with refusing("data: cannot be looked for", "paths that can be read are needed"):  # a name may be too long
            folder = self.prepared_folder()
            exists = folder.exists()
        if not exists:
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
                    present = ", ".join(map(str, value)) or "{}" if isinstance(value, Mapping) else type(value).__name__
                    raise DataError(f"{place}: has no text under data.text_column={column!r}, got {present}")
                value = value[key]
            if value is None:
                self.skipped_rows += 1
            elif isinstance(value, str):
                yield value
            else:
                raise DataError(f"{place}: data.text_column={column!r} holds no text, got {type(value).__name__}")


def states_of(paths: Iterable[Path]) -> list[list[Any]]:
    """Path, size and time of change of each file: another state is another corpus."""
    return [[str(path), (state := path.stat()).st_size, state.st_mtime_ns] for path in paths]
