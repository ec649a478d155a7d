"""Shards that others have tokenized with GPT-2's tokenizer: modded-nanogpt's FineWeb data sets, and any repository like them.

A repository holds `<prefix>_val_000000.bin` and `<prefix>_train_000001.bin`, `..._000002.bin` and so on, each of 100
million tokens. They are kept under these names in `<folder>/<owner>_<repository>`, where they may also be put by hand.
huggingface_hub fetches missing ones. A file is accepted if it is a shard of the size and sha256 that the hub states.
Sources: https://github.com/KellerJordan/modded-nanogpt (data/cached_fineweb10B.py), repositories kjj0/fineweb10B-gpt2,
kjj0/fineweb100B-gpt2, kjj0/finewebedu10B-gpt2. Differs from the source: files are checked, not only counted.
"""

import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tqdm import tqdm

from ramen.data.dataset import THREADS, Dataset, ShardIndex, dataset_of
from ramen.data.prepare import WRITABLE, PausedError
from ramen.data.shard import ShardRecord, refusing
from ramen.data.source import FIXED_VOCABULARIES, Source
from ramen.data.tokenizer import gpt2_tokenizer
from ramen.errors import DataError, one_line
from ramen.ops.checks import check_range
from ramen.runs.lock import exclusive

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoFile

SPARE_BYTES = 2**26  # of disk, to leave free


@dataclass(kw_only=True, eq=False)
class Pretokenized(Source):
    """The validation shard and the first training shards of a repository."""

    repo: str
    prefix: str
    available: int | None
    shards: int
    downloads: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(f"[1, {self.available or 999_999}]", shards=self.shards)
        check_range("[1, 64]", downloads=self.downloads)
        if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", self.repo):
            raise ValueError(f"repo: is no repository, got {self.repo!r}; allowed is owner/name")
        if not re.fullmatch(r"\w[\w.-]*", self.prefix):
            raise ValueError(f"prefix: is no beginning of a file's name, got {self.prefix!r}; allowed is fineweb")
        self.home = self.root / self.repo.replace("/", "_")
        training = [f"{self.prefix}_train_{number:06d}.bin" for number in range(1, self.shards + 1)]
        self.names = [f"{self.prefix}_val_000000.bin", *training]

    @property
    def vocabulary(self) -> int:
        return FIXED_VOCABULARIES["gpt2"]

    def dataset(self, progress: bool = True) -> Dataset:
        """The shards, fetched now if they are not there or were changed."""
        records = self._records()
        if len(records) < len(self.names):
            with refusing(f"{self.home}: cannot be written", WRITABLE), exclusive(self.home):
                records = self._records()  # another process may have fetched them in the meantime
                if missing := [name for name in self.names if name not in records]:
                    self._fetch(missing, progress)
                    records = self._records()
        validation, *train = (records[name] for name in self.names)
        return dataset_of(self.home, gpt2_tokenizer(), train=train, validation=[validation])

    def _records(self) -> dict[str, ShardRecord]:
        """The records of the files that are there. DataError for a damaged one that was put there by hand."""
        index, tokenizer = ShardIndex(self.home), gpt2_tokenizer()

        def record(name: str) -> ShardRecord | None:
            try:
                return index.record(self.home / name, tokenizer)
            except DataError as error:
                if name in index.shards:  # it was whole before, and is fetched again
                    return None
                raise DataError(f"{error}; delete it to have it fetched") from error

        with ThreadPoolExecutor(THREADS) as pool:
            records = pool.map(record, [name for name in self.names if (self.home / name).exists()])
        index.save()
        return {record.file: record for record in records if record}

    def _fetch(self, names: list[str], progress: bool) -> None:
        """Fetch files, replacing what is there."""
        from huggingface_hub import HfApi
        from huggingface_hub.hf_api import RepoFile

        with self._asking_hub(names):
            entries = HfApi().get_paths_info(self.repo, names, repo_type="dataset")
        files = [entry for entry in entries if isinstance(entry, RepoFile)]
        if absent := sorted({*names} - {file.path for file in files}):
            remedy = "a smaller data.shards, another data.prefix or another data.repo is needed"
            raise DataError(f"{self.repo}: has no {_listed(absent)}; {remedy}")
        needed, free = sum(file.size for file in files) + SPARE_BYTES, shutil.disk_usage(self.home).free
        if needed > free:
            remedy = f"needed are {needed / 1e9:.2f} GB: a smaller data.shards or another data.folder"
            room = f"too little room for {len(names)} files of {self.repo}, got {free / 1e9:.2f} GB free"
            raise DataError(f"{self.home}: has {room}; {remedy}")
        if progress:  # huggingface_hub shows how far it is on a terminal
            tqdm.write(f"fetching {needed / 1e9:.2f} GB, {_listed(names)} of {self.repo}, into {self.home}", sys.stderr)
        index = ShardIndex(self.home)
        try:
            with ThreadPoolExecutor(self.downloads) as pool:
                list(pool.map(lambda file: self._fetch_one(file, index), files))  # the first error cancels the others
        finally:
            index.save()

    def _fetch_one(self, file: "RepoFile", index: ShardIndex) -> None:
        from huggingface_hub import hf_hub_download

        path = self.home / file.path
        path.unlink(missing_ok=True)
        index.shards.pop(path.name, None)
        with self._asking_hub([file.path]):
            hf_hub_download(self.repo, file.path, repo_type="dataset", local_dir=self.home)
        try:
            record = index.record(path, gpt2_tokenizer())
            if file.lfs and file.lfs.sha256 != record.sha256:
                stated = f"got sha256 {record.sha256}; stated is {file.lfs.sha256}"
                raise DataError(f"{path}: is not what the hub states, {stated}")
        except DataError as error:
            path.unlink()
            index.shards.pop(path.name, None)
            raise DataError(f"{error}; it was removed; run again to fetch it from {self.repo} once more") from error

    @contextmanager
    def _asking_hub(self, names: Sequence[str]) -> Iterator[None]:
        """PausedError that tells how to go on where the hub cannot be reached."""
        try:
            yield
        except Exception as error:  # the hub's errors and those of its http client
            if isinstance(error, OSError) and error.errno is not None:  # of this machine: a full disk
                raise
            raise PausedError(
                f"{self.repo}: the Hugging Face data set cannot be fetched, got {one_line(error)}; needed in {self.home}: "
                f"{_listed(names)}. Run this again with a network, or place these files there by hand: elsewhere, "
                f"`hf download {self.repo} --repo-type dataset --local-dir FOLDER {' '.join(names[:2])} ...` fetches them"
            ) from error


def _listed(names: Sequence[str]) -> str:
    """The names of files; of many, the first, the last and how many."""
    some = [*names[:2], "...", names[-1]] if len(names) > 4 else list(names)
    return f"{', '.join(some)} ({len(names)} file{'s' * (len(names) > 1)})"
