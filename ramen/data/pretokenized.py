"""Shards that others have tokenized with GPT-2's tokenizer: modded-nanogpt's FineWeb data sets, and any repository like them.

A repository holds `<prefix>_val_000000.bin` and `<prefix>_train_000001.bin`, `..._000002.bin` and so on, each of 100
million tokens. The files lie under their own names in `<folder>/<owner>_<repository>`, where they may also be put by hand.
Sources: https://github.com/KellerJordan/modded-nanogpt (data/cached_fineweb10B.py), repositories kjj0/fineweb10B-gpt2,
kjj0/fineweb100B-gpt2, kjj0/finewebedu10B-gpt2. Differs from the source: files are checked, not only counted.
"""

import re
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from ramen.data.dataset import Dataset
from ramen.data.download import download, stated_by_hub
from ramen.data.examine import ShardRecord
from ramen.data.gpt2 import gpt2_tokenizer
from ramen.data.manifest import MANIFEST, check_seal, dataset_of, record_from, sealed
from ramen.data.shard import open_shard
from ramen.data.source import FIXED_VOCABULARIES, Source, check_range
from ramen.data.tokenizer import Tokenizer
from ramen.data.verified import Verified
from ramen.errors import ConfigError, DataError
from ramen.runs.atomic import read_json, write_atomically
from ramen.runs.lock import exclusive

REMEDY = "delete it to have the shards read again"


class Pretokenized(Source):
    """The validation shard and the first training shards of a repository."""

    def __init__(
        self,
        *,
        repo: str,
        prefix: str,
        available: int | None,
        shards: int,
        downloads: int,
        **base: Any,
    ):
        super().__init__(**base)
        check_range("shards", shards, 1, 999_999 if available is None else available)
        check_range("downloads", downloads, 1, 64)
        if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", repo):
            raise ConfigError(f"data.repo: is no repository, got {repo!r}; allowed is owner/name")
        if not re.fullmatch(r"\w[\w.-]*", prefix):
            raise ConfigError(f"data.prefix: is no beginning of a file's name, got {prefix!r}; allowed is fineweb")
        self.repo = repo
        self.home = self.folder / repo.replace("/", "_")
        self.validation = f"{prefix}_val_000000.bin"
        self.train = [f"{prefix}_train_{number:06d}.bin" for number in range(1, shards + 1)]
        self.names = [self.validation, *self.train]
        self.downloads = downloads

    @property
    def vocabulary(self) -> int:
        return FIXED_VOCABULARIES["gpt2"]

    def dataset(self, progress: bool = True) -> Dataset:
        """The shards, fetched now if they are not there or broken."""
        tokenizer = _tokenizer()
        records = self._known(tokenizer)
        if len(records) < len(self.names):
            try:
                with exclusive(self.home):
                    records = self._known(tokenizer)  # another process may have fetched them in the meantime
                    records |= self._fetched([name for name in self.names if name not in records], tokenizer, progress)
            except OSError as error:
                raise DataError(
                    f"{self.home}: cannot be written, got {error}; data.folder needs to be writable, with room"
                ) from error
        return dataset_of(self.home, tokenizer, [records[name] for name in self.train], [records[self.validation]])

    def _known(self, tokenizer: Tokenizer) -> dict[str, ShardRecord]:
        """The records of the files that are there and whole: of those in a noted state as noted, of others by reading."""
        noted = _read_manifest(self.home / MANIFEST, self.repo)
        verified = Verified(self.home)
        there = {self.home / name: noted.get(name) for name in self.names if _is_whole(self.home / name)}
        known = {}
        for path, found in verified.records(there, tokenizer).items():
            if isinstance(found, DataError):
                if path.name not in noted:
                    raise found
            elif found == noted.get(path.name, found):  # another is broken or has been replaced: it is fetched again
                known[path.name] = found
        if verified.changed:
            self._note(noted | known, verified)
        return known

    def _fetched(self, names: list[str], tokenizer: Tokenizer, progress: bool) -> dict[str, ShardRecord]:
        if not names:
            return {}
        wanted = stated_by_hub(self.repo, names, self.home)
        verified = Verified(self.home)
        records: dict[str, ShardRecord] = {}

        def check(path: Path) -> ShardRecord:
            records[path.name] = verified.examine(path, tokenizer)
            return records[path.name]

        try:
            download(self.repo, wanted, self.home, check, self.downloads, progress)
        finally:
            whole = {name: record for name, record in records.items() if (self.home / name).exists()}
            self._note(_read_manifest(self.home / MANIFEST, self.repo) | whole, verified)
        return records

    def _note(self, records: dict[str, ShardRecord], verified: Verified) -> None:
        verified.save()
        if verified.changed:  # the folder cannot be written to
            return
        content = {"repo": self.repo, "shards": {name: asdict(records[name]) for name in sorted(records)}}
        write_atomically(self.home / MANIFEST, sealed(content))


@cache
def _tokenizer() -> Tokenizer:
    """Half a second, which the jobs of a sweep share."""
    return gpt2_tokenizer()


def _is_whole(path: Path) -> bool:
    try:
        open_shard(path)
    except DataError:
        return False
    return True


def _read_manifest(path: Path, repo: str) -> dict[str, ShardRecord]:
    """File -> record. DataError when the folder is another repository's, or its manifest is damaged."""
    try:
        content: Any = read_json(path)
        owner, records = content["repo"], {name: record_from(stated) for name, stated in content["shards"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: is damaged, got {type(error).__name__}: {error}; {REMEDY}") from error
    if owner != repo:
        raise DataError(
            f"{path}: is of another repository, got {owner!r}; allowed is {repo!r}: give another data.folder"
        )
    check_seal(path, content, REMEDY)
    return records
