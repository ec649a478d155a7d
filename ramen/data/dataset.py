"""A prepared data set: shards of both splits and their tokenizer, checked at each opening."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ramen.data.index import MANIFEST, ShardIndex
from ramen.data.shard import ShardRecord, open_shard
from ramen.data.tokenizer import REMEDY, TOKENIZER, Tokenizer, load_tokenizer
from ramen.errors import DataError
from ramen.runs.atomic import sha256_of

FORMAT = 4  # raise it when what is prepared from equal settings changes


@dataclass(frozen=True)
class Dataset:
    """Shards of both splits, their tokenizer, their sizes."""

    folder: Path
    train: tuple[Path, ...]
    validation: tuple[Path, ...]
    tokenizer: Tokenizer
    hash: str  # 16 hexadecimal digits over the sha256 of tokenizer and every shard: equal wherever it was prepared
    train_tokens: int  # BOS included
    validation_tokens: int
    train_documents: int
    validation_documents: int
    train_bytes: int  # of UTF-8 text
    validation_bytes: int


def dataset_of(
    folder: Path, tokenizer: Tokenizer, train: Sequence[ShardRecord], validation: Sequence[ShardRecord]
) -> Dataset:
    """The Dataset of shards that have been checked."""
    splits = {"train": train, "validation": validation}
    records = {split: [asdict(record) for record in shards] for split, shards in splits.items()}
    sizes = {
        f"{split}_{count}": sum(record[count] for record in shards)
        for split, shards in records.items()
        for count in ("tokens", "documents", "bytes")
    }
    paths = {split: tuple(folder / record.file for record in shards) for split, shards in splits.items()}
    digest = sha256_of({"tokenizer_sha256": tokenizer.hash, **records})[:16]
    return Dataset(folder, paths["train"], paths["validation"], tokenizer, digest, **sizes)


def settings_digest(settings: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits over the settings of a preparation."""
    return sha256_of({"format": FORMAT, **settings})[:8]


def open_dataset(folder: Path, settings: Mapping[str, Any] | None = None) -> Dataset:
    """The Dataset of a prepared folder. DataError when it is incomplete, damaged, or of other settings than asked."""
    path, index = folder / MANIFEST, ShardIndex(folder)
    if index.problem or not {"settings", "tokenizer_sha256"} <= index.about.keys():
        problem = index.problem or f"no settings in {index.about}"
        raise DataError(f"{path}: is no manifest of prepared data, got {problem}; {REMEDY}")
    stated = index.about["settings"]
    if settings is not None and stated != json.loads(json.dumps(dict(settings))):
        raise DataError(f"{path}: is of other settings, got {stated}; asked are {dict(settings)}; {REMEDY}")
    tokenizer = load_tokenizer(folder / TOKENIZER, index.about["tokenizer_sha256"])
    train, validation = ([folder / name for name in index.names(split)] for split in ("train_", "validation_"))
    if not train or not validation:
        raise DataError(f"{path}: lists no shard of a split; each needs one; {REMEDY}")
    for shard in [*train, *validation]:
        open_shard(shard)  # all headers before any contents
    records, errors = index.records([*train, *validation], tokenizer)
    for error in errors.values():
        raise DataError(f"{error}; {REMEDY}")
    index.save()
    return dataset_of(
        folder, tokenizer, [records[path.name] for path in train], [records[path.name] for path in validation]
    )
