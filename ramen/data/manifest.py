"""manifest.json of a prepared folder: what the folder holds and from which settings; checked at each opening.

Every shard's header is held against its size and the manifest at each opening; its bytes are held against the manifest's
sha256 whenever the file is not in the state it was in when that was last done (verified.py).
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ramen.config.check import is_text
from ramen.data.dataset import Dataset
from ramen.data.examine import ShardRecord
from ramen.data.shard import open_shard
from ramen.data.tokenizer import Tokenizer, load_tokenizer
from ramen.data.verified import Verified
from ramen.errors import DataError
from ramen.runs.atomic import read_json, write_atomically

FORMAT = 2
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
NEEDED = ("settings", "tokenizer_sha256", "train", "validation")
REMEDY = "delete the folder to prepare it again"


def settings_digest(settings: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits over the settings of a preparation."""
    return _sha256({"format": FORMAT, **settings})[:8]


def write_manifest(
    folder: Path,
    settings: Mapping[str, Any],
    origin: str | None,
    tokenizer_hash: str,
    train: list[ShardRecord],
    validation: list[ShardRecord],
) -> None:
    """Write `manifest.json`; the last file of a preparation."""
    content = {
        "format": FORMAT,
        "settings": dict(settings),
        "origin": origin,
        "tokenizer_sha256": tokenizer_hash,
        "train": [asdict(record) for record in train],
        "validation": [asdict(record) for record in validation],
    }
    write_atomically(folder / MANIFEST, sealed(content))


def sealed(content: Mapping[str, Any]) -> bytes:
    """The content as json with its own sha256, so that no number in it changes unnoticed."""
    return json.dumps({**content, "sha256": _sha256(content)}, indent=1).encode()


def check_seal(path: Path, content: Mapping[str, Any], remedy: str) -> None:
    """DataError when the content, as read from `path`, is not as it was sealed."""
    found = _sha256({key: value for key, value in content.items() if key != "sha256"})
    if found != content.get("sha256"):
        raise DataError(f"{path}: was changed, got sha256 {found}; stated is {content.get('sha256')}; {remedy}")


def open_dataset(folder: Path, settings: Mapping[str, Any] | None = None) -> Dataset:
    """The Dataset of a prepared folder. DataError when it is incomplete, damaged, or of other settings than asked."""
    path = folder / MANIFEST
    content = _read(path)
    if settings is not None and content["settings"] != json.loads(json.dumps(dict(settings))):
        raise DataError(
            f"{path}: was prepared from other settings, got {content['settings']}; asked are {dict(settings)}; {REMEDY}"
        )
    tokenizer = load_tokenizer(folder / TOKENIZER)
    if tokenizer.hash != content["tokenizer_sha256"]:
        raise DataError(
            f"{folder / TOKENIZER}: is not the tokenizer of these shards, got sha256 {tokenizer.hash}; "
            f"the manifest states {content['tokenizer_sha256']}; {REMEDY}"
        )
    train, validation = _records(path, content["train"]), _records(path, content["validation"])
    _check_shards(folder, [*train, *validation], tokenizer)
    check_seal(path, content, REMEDY)
    return dataset_of(folder, tokenizer, train, validation)


def dataset_of(folder: Path, tokenizer: Tokenizer, train: list[ShardRecord], validation: list[ShardRecord]) -> Dataset:
    """The Dataset of shards that have been checked. Its hash is over the tokenizer and the records."""
    records = {"train": [asdict(record) for record in train], "validation": [asdict(record) for record in validation]}
    return Dataset(
        folder=folder,
        train=tuple(folder / record.file for record in train),
        validation=tuple(folder / record.file for record in validation),
        tokenizer=tokenizer,
        hash=_sha256({"tokenizer_sha256": tokenizer.hash, **records})[:16],
        train_tokens=sum(record.tokens for record in train),
        validation_tokens=sum(record.tokens for record in validation),
        train_documents=sum(record.documents for record in train),
        validation_documents=sum(record.documents for record in validation),
        train_bytes=sum(record.bytes for record in train),
        validation_bytes=sum(record.bytes for record in validation),
    )


def record_from(stated: Any) -> ShardRecord:
    """A record as json stated it. TypeError when it is none."""
    record = ShardRecord(**stated)
    counts = (record.tokens, record.documents, record.bytes)
    if not all(isinstance(count, int) and count >= 0 for count in counts) or not isinstance(record.sha256, str):
        raise TypeError(f"{record}")
    if not isinstance(record.file, str) or Path(record.file).name != record.file or not is_text(record.file):
        raise TypeError(f"file {record.file!r}, which is no name of a file in this folder")
    return record


def _read(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file; a prepared folder has one; {REMEDY}") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read, got {type(error).__name__}: {error}; {REMEDY}") from error
    stated = content.get("format") if isinstance(content, dict) else None
    if stated != FORMAT:
        raise DataError(f"{path}: is of another format, got {stated!r}; allowed is {FORMAT}; {REMEDY}")
    if missing := [key for key in NEEDED if key not in content]:
        raise DataError(f"{path}: is incomplete, got no {', '.join(missing)}; {REMEDY}")
    return content


def _records(path: Path, stated: Any) -> list[ShardRecord]:
    try:
        records = [record_from(record) for record in stated]
    except TypeError as error:
        raise DataError(f"{path}: describes its shards wrongly, got {error}; {REMEDY}") from error
    if not records:
        raise DataError(f"{path}: lists no shard of a split; each split needs one; {REMEDY}")
    return records


def _check_shards(folder: Path, records: list[ShardRecord], tokenizer: Tokenizer) -> None:
    stated = {folder / record.file: record for record in records}
    for path, record in stated.items():
        count = len(open_shard(path))
        if count != record.tokens:
            raise DataError(
                f"{path}: is not the shard of the manifest, got {count} tokens; stated are {record.tokens}; {REMEDY}"
            )
    verified = Verified(folder)
    for path, found in verified.records(stated, tokenizer).items():
        if isinstance(found, DataError):
            raise found
        if found != stated[path]:
            raise DataError(
                f"{path}: is not the shard of the manifest, got sha256 {found.sha256}; "
                f"stated is {stated[path].sha256}; {REMEDY}"
            )
    verified.save()


def _sha256(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
