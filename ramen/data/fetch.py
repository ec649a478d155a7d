"""Files of a Hugging Face data set repository, fetched into a folder by huggingface_hub, several at once, each checked.

The room they need on disk is said first, and refused where it is not there. A file counts when its size and sha256 are
those that the hub states and a shard is in it; a broken one is fetched once more. Whole files stay, whatever happens to
the rest, and huggingface_hub continues one that was fetched in part.
"""

import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from ramen.data.prepare import PausedError
from ramen.data.shard import ShardRecord
from ramen.errors import DataError, told

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoFile

SPARE_BYTES = 2**26  # to leave free


def fetch(
    repo: str,
    names: Sequence[str],
    folder: Path,
    read: Callable[[Path], ShardRecord],
    downloads: int,
    progress: bool,
) -> None:
    """Fetch every file, `downloads` at a time, replacing what is there; `read` reads each and raises if it is damaged."""
    wanted = _stated_by_hub(repo, names, folder)
    total = sum(remote.size for remote in wanted.values())
    free = shutil.disk_usage(folder).free
    if total + SPARE_BYTES > free:
        raise DataError(
            f"{folder}: has too little room for {len(names)} files of {repo}, got {free / 1e9:.2f} GB free; "
            f"needed are {(total + SPARE_BYTES) / 1e9:.2f} GB: a smaller data.shards or another data.folder"
        )
    stop = threading.Event()
    title = f"fetching {listed(names)} of {repo} into {folder}"
    bar = tqdm(desc=title, total=total, unit="B", unit_scale=True, disable=not progress)
    with bar, ThreadPoolExecutor(downloads, "fetch") as pool:
        try:
            for _ in pool.map(lambda name: _fetch_checked(repo, wanted[name], folder / name, read, stop, bar), names):
                pass
        finally:
            stop.set()  # the other downloads


def _stated_by_hub(repo: str, names: Sequence[str], folder: Path) -> "Mapping[str, RepoFile]":
    """Size and, of large files, sha256 of each. DataError that says what to do by hand when the hub does not answer."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    try:
        found = HfApi().get_paths_info(repo, list(names), repo_type="dataset")
    except Exception as error:  # the hub's own errors and those of whichever http client it uses
        raise _by_hand(repo, names, folder, error) from error
    stated = {entry.path: entry for entry in found if isinstance(entry, RepoFile)}
    if absent := [name for name in names if name not in stated]:
        raise DataError(
            f"{repo}: has no {listed(absent)}; a smaller data.shards, another data.prefix or another data.repo is needed"
        )
    return stated


def _by_hand(repo: str, names: Sequence[str], folder: Path, error: Exception) -> PausedError:
    """What to do where the hub cannot be reached."""
    return PausedError(
        f"{repo}: the Hugging Face data set cannot be fetched, got {told(error)}; needed in {folder}: {listed(names)}. "
        f"Run this again with a network, or place these files there by hand: elsewhere, "
        f"`hf download {repo} --repo-type dataset --local-dir FOLDER {' '.join(names[:2])} ...` fetches them"
    )


def listed(names: Sequence[str]) -> str:
    """The names of files; of many, the first, the last and how many."""
    some = [*names[:2], "...", names[-1]] if len(names) > 4 else list(names)
    return f"{', '.join(some)} ({len(names)} file{'s' * (len(names) > 1)})"


def _fetch_checked(
    repo: str, remote: "RepoFile", path: Path, read: Callable[[Path], ShardRecord], stop: threading.Event, bar: tqdm
) -> None:
    sha256 = remote.lfs.sha256 if remote.lfs else None
    for last in (False, True):
        try:
            _download(repo, path, stop, bar)
            record = read(path)
            if path.stat().st_size == remote.size and sha256 in (None, record.sha256):
                return
            raise DataError(f"{path}: is not what the hub states, got sha256 {record.sha256}; stated is {sha256}")
        except DataError as error:
            path.unlink(missing_ok=True)
            if isinstance(error, PausedError) and (last or stop.is_set()):
                raise
            if last:
                raise DataError(f"{error}; it was fetched twice from {repo}, and removed") from error


def _download(repo: str, path: Path, stop: threading.Event, bar: tqdm) -> None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import tqdm as hub_tqdm

    class PartOfBar(hub_tqdm):
        """Shows nothing itself, moves the bar of all files, and ends the download when another one has failed."""

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **{**kwargs, "disable": True})

        def update(self, n: float | None = 1) -> bool | None:
            if stop.is_set():
                raise InterruptedError("another file failed")
            return bar.update(n)

    path.unlink(missing_ok=True)
    try:
        hf_hub_download(repo, path.name, repo_type="dataset", local_dir=path.parent, tqdm_class=PartOfBar)
    except Exception as error:  # the hub's own errors and those of whichever http client it uses
        if isinstance(error, OSError) and error.errno is not None:  # of this machine: a full disk
            raise
        raise _by_hand(repo, [path.name], path.parent, error) from error
