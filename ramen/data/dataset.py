"""A prepared data set: shards of both splits and their tokenizer, checked at each opening.

manifest.json of a folder of shards has the record of each, the state of its file when it was read, and the origin of all.
A state is size, time of change and time of the last change of the inode, which cannot be set back. A file in its noted
state is taken to be what it was, so that no start reads gigabytes again; any other is read and compared with its record.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ramen.data.shard import ShardRecord, open_shard, read_record, reading
from ramen.data.tokenizer import REMEDY, TOKENIZER, Tokenizer, load_tokenizer
from ramen.errors import DataError, one_line
from ramen.runs.atomic import read_value, sha256_of, write_atomically

MANIFEST = "manifest.json"
SPLITS = "train", "validation"
THREADS = 4

log = logging.getLogger("ramen")


class Manifest(BaseModel):
    """The content of manifest.json. The name of a shard is never a path."""

    model_config = ConfigDict(extra="forbid")

    about: dict[str, Any]
    shards: dict[Annotated[str, Field(pattern=r"^\w[\w.-]*$")], tuple[list[int], ShardRecord]]
    sha256: str  # of the other fields, so that no number changes unnoticed


class ShardIndex:
    """The manifest of a folder. One that is missing or damaged is empty, and `problem` says why."""

    def __init__(self, folder: Path):
        self.path = folder / MANIFEST
        self.about: dict[str, Any] = {}  # the origin of the shards
        self.shards: dict[str, tuple[list[int], ShardRecord]] = {}  # name -> state and record
        self.problem: str | None = None
        try:
            stored = Manifest.model_validate(read_value(self.path))
            if stored.sha256 != (actual := sha256_of(stored.model_dump(exclude={"sha256"}))):
                raise ValueError(f"sha256 {actual} where {stored.sha256} is stated: it was changed")
            if wrong := [name for name, (_, record) in stored.shards.items() if name != record.file]:
                raise ValueError(f"another name in the record of {wrong[0]}")
            self.about, self.shards = stored.about, stored.shards
        except ValidationError as error:
            first = error.errors()[0]
            self.problem = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        except (OSError, ValueError) as error:
            self.problem = one_line(error)
        self._written = {**self.shards}

    def record(self, path: Path, tokenizer: Tokenizer) -> ShardRecord:
        """The record of a shard; it is read if its state is not noted. DataError when it is damaged or was changed."""
        with reading(path):
            status = path.stat()
        state = [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
        noted_state, noted = self.shards.get(path.name, (None, None))
        if noted and noted_state == state:
            return noted
        record = read_record(path, tokenizer)
        if noted and noted != record:
            raise DataError(f"{path}: was changed, got sha256 {record.sha256}; {MANIFEST} states {noted.sha256}")
        self.shards[path.name] = state, record
        return record

    def write(self) -> None:
        """Write the manifest. DataError where it cannot be."""
        shards = {name: (state, record.model_dump()) for name, (state, record) in sorted(self.shards.items())}
        content = {"about": self.about, "shards": shards}
        write_atomically(self.path, json.dumps({**content, "sha256": sha256_of(content)}, indent=1).encode())
        self._written = {**self.shards}

    def save(self) -> None:
        """Write records that are new, where the folder can be written to."""
        if self.shards != self._written:
            try:
                self.write()
            except DataError as error:
                log.warning("%s; every start will read the shards again", error)


@dataclass(frozen=True)
class SplitShards:
    """The shards of one split, and their sizes in all."""

    paths: tuple[Path, ...]
    tokens: int  # BOS included
    documents: int
    bytes: int  # of UTF-8 text


@dataclass(frozen=True)
class Dataset:
    """Shards of both splits and their tokenizer."""

    folder: Path
    tokenizer: Tokenizer
    hash: str  # 16 hexadecimal digits over the sha256 of tokenizer and every shard: equal wherever it was prepared
    train: SplitShards
    validation: SplitShards


def dataset_of(folder: Path, tokenizer: Tokenizer, **splits: Sequence[ShardRecord]) -> Dataset:
    """The Dataset of shards of `train` and `validation` that have been checked."""
    records = {split: [record.model_dump() for record in shards] for split, shards in splits.items()}
    digest = sha256_of({"tokenizer_sha256": tokenizer.hash, **records})[:16]
    shards_of = {}
    for split, shards in records.items():
        sizes = {count: sum(record[count] for record in shards) for count in ("tokens", "documents", "bytes")}
        shards_of[split] = SplitShards(tuple(folder / record["file"] for record in shards), **sizes)
    return Dataset(folder, tokenizer, digest, **shards_of)


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
    paths = [folder / name for name in sorted(index.shards)]
    for shard in paths:
        open_shard(shard)  # all headers before any contents
    try:
        with ThreadPoolExecutor(THREADS) as pool:
            records = list(pool.map(lambda shard: index.record(shard, tokenizer), paths))
    except DataError as error:
        raise DataError(f"{error}; {REMEDY}") from error
    splits = {split: [record for record in records if record.file.startswith(f"{split}_")] for split in SPLITS}
    if not all(splits.values()):
        raise DataError(f"{path}: lists no shard of a split; each needs one; {REMEDY}")
    index.save()
    return dataset_of(folder, tokenizer, **splits)
