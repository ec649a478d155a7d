"""A prepared data set, and the manifest.json of its folder: contents and settings, checked at each opening.

The header of every shard is compared with its size and the manifest at each opening, its bytes whenever the file is not
in the state in which they were last read (checksum.py).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ramen.data.checksum import ChecksumCache, read_sealed, record_from, sha256_of, write_sealed
from ramen.data.shard import ShardRecord, open_shard
from ramen.data.tokenizer import REMEDY, Tokenizer, load_tokenizer
from ramen.errors import DataError, told

FORMAT = 3
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"


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

    @property
    def bytes_per_token(self) -> float:
        """Of the validation split. Bits per byte = mean loss in nats / ln 2 / bytes_per_token."""
        return self.validation_bytes / self.validation_tokens


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


def write_manifest(
    folder: Path,
    settings: Mapping[str, Any],
    origin: str | None,
    tokenizer: Tokenizer,
    splits: Mapping[str, Sequence[ShardRecord]],
) -> None:
    """Write `manifest.json`, the last file of a preparation."""
    records = {split: [asdict(record) for record in shards] for split, shards in splits.items()}
    about = {"format": FORMAT, "settings": dict(settings), "origin": origin, "tokenizer_sha256": tokenizer.hash}
    write_sealed(folder / MANIFEST, about | records)


def open_dataset(folder: Path, settings: Mapping[str, Any] | None = None) -> Dataset:
    """The Dataset of a prepared folder. DataError when it is incomplete, damaged, or of other settings than asked."""
    path = folder / MANIFEST
    try:
        content = read_sealed(path)
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']!r}; allowed is {FORMAT}")
        train, validation = ([record_from(record) for record in content[split]] for split in ("train", "validation"))
        stated, sha256 = content["settings"], content["tokenizer_sha256"]
        if not train or not validation:
            raise ValueError("no shard of a split; each needs one")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: is no manifest of prepared data, got {told(error)}; {REMEDY}") from error
    if settings is not None and stated != json.loads(json.dumps(dict(settings))):
        raise DataError(f"{path}: is of other settings, got {stated}; asked are {dict(settings)}; {REMEDY}")
    tokenizer = load_tokenizer(folder / TOKENIZER, sha256)
    _check_shards(folder, [*train, *validation], tokenizer)
    return dataset_of(folder, tokenizer, train, validation)


def _check_shards(folder: Path, stated: Sequence[ShardRecord], tokenizer: Tokenizer) -> None:
    records = {folder / record.file: record for record in stated}
    for path in records:
        open_shard(path)  # all headers before any contents
    cache = ChecksumCache(folder)
    for path, found in cache.records([*records], tokenizer).items():
        if isinstance(found, DataError):
            raise DataError(f"{found}; {REMEDY}")
        if found != (wanted := records[path]):
            raise DataError(
                f"{path}: is not the shard of the manifest, got {found.tokens} tokens, sha256 {found.sha256}; "
                f"stated are {wanted.tokens}, {wanted.sha256}; {REMEDY}"
            )
    cache.save()
