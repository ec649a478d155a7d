"""Shards that others have tokenized with GPT-2's tokenizer: modded-nanogpt's FineWeb data sets, and any repository like them.

A repository holds `<prefix>_val_000000.bin` and `<prefix>_train_000001.bin`, `..._000002.bin` and so on, each of 100
million tokens. The files lie under their own names in `<folder>/<owner>_<repository>`, where they may also be put by hand.
Sources: https://github.com/KellerJordan/modded-nanogpt (data/cached_fineweb10B.py), repositories kjj0/fineweb10B-gpt2,
kjj0/fineweb100B-gpt2, kjj0/finewebedu10B-gpt2. Differs from the source: files are checked, not only counted.
"""

import re
from functools import cache
from pathlib import Path
from typing import Any

from ramen.data.checksum import ChecksumCache
from ramen.data.dataset import Dataset, dataset_of
from ramen.data.fetch import fetch
from ramen.data.gpt2 import gpt2_tokenizer
from ramen.data.shard import ShardRecord, read_record
from ramen.data.source import FIXED_VOCABULARIES, Source, check_range
from ramen.data.tokenizer import Tokenizer
from ramen.errors import ConfigError, DataError
from ramen.runs.lock import exclusive


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
        self.downloads = downloads

    @property
    def vocabulary(self) -> int:
        return FIXED_VOCABULARIES["gpt2"]

    def dataset(self, progress: bool = True) -> Dataset:
        """The shards, fetched now if they are not there or were changed."""
        tokenizer = _tokenizer()
        names = [self.validation, *self.train]
        records = self._present(names, tokenizer)
        if len(records) < len(names):
            try:
                with exclusive(self.home):
                    records = self._present(names, tokenizer)  # another process may have fetched them in the meantime
                    records |= self._fetched([name for name in names if name not in records], tokenizer, progress)
            except OSError as error:
                raise DataError(
                    f"{self.home}: cannot be written, got {error}; data.folder needs to be writable, with room"
                ) from error
        return dataset_of(self.home, tokenizer, [records[name] for name in self.train], [records[self.validation]])

    def _present(self, names: list[str], tokenizer: Tokenizer) -> dict[str, ShardRecord]:
        """The records of the files that are there. DataError for a damaged one that was put there by hand."""
        checksums = ChecksumCache(self.home)
        present = {}
        paths = [path for path in (self.home / name for name in names) if path.exists()]
        for path, found in checksums.records(paths, tokenizer).items():
            if isinstance(found, ShardRecord):
                present[path.name] = found
            elif path not in checksums:  # one that was whole before is fetched again
                raise DataError(f"{found}; delete it to have it fetched") from found
        checksums.save()
        return present

    def _fetched(self, names: list[str], tokenizer: Tokenizer, progress: bool) -> dict[str, ShardRecord]:
        checksums = ChecksumCache(self.home)
        records: dict[str, ShardRecord] = {}

        def read(path: Path) -> ShardRecord:
            records[path.name] = read_record(path, tokenizer)
            checksums.note(path, records[path.name])
            return records[path.name]

        try:
            if names:
                fetch(self.repo, names, self.home, read, self.downloads, progress)
        finally:
            checksums.save()
        return records


@cache
def _tokenizer() -> Tokenizer:
    """Half a second, which the jobs of a sweep share."""
    return gpt2_tokenizer()
