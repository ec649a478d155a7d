"""Files of a Hugging Face data set repository, fetched into a folder, several at once, each checked.

What is needed on disk is said first, and refused where it is not there. A file counts when its size and sha256 are those
the hub states and a shard is in it; a broken one is fetched once more. Whole files stay, whatever happens to the rest.
"""

import contextlib
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING

from ramen.data.display import Display
from ramen.data.examine import ShardRecord
from ramen.data.tokenize import PausedError
from ramen.errors import DataError, told

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoFile

LEFT_SECONDS = 3600  # a part of a file untouched for so long was left by a killed download
POLL_SECONDS = 0.5
SPARE_BYTES = 2**26  # to leave free


def stated_by_hub(repo: str, files: Sequence[str], folder: Path) -> dict[str, "RepoFile"]:
    """Size and, of large files, sha256 of each. DataError that says what to do by hand when the hub does not answer."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    try:
        found = HfApi().get_paths_info(repo, list(files), repo_type="dataset")
    except Exception as error:  # the hub's own errors and those of whichever http client it uses
        raise _by_hand(repo, files, folder, error) from error
    stated = {entry.path: entry for entry in found if isinstance(entry, RepoFile)}
    if absent := [file for file in files if file not in stated]:
        raise DataError(
            f"{repo}: has no {listed(absent)}; a smaller data.shards, another data.prefix or another data.repo is needed"
        )
    return stated


def _by_hand(repo: str, files: Sequence[str], folder: Path, error: Exception) -> PausedError:
    """What to do where the hub cannot be reached."""
    return PausedError(
        f"{repo}: the Hugging Face data set cannot be fetched, got {told(error)}; missing in {folder}: {listed(files)}. "
        f"Run this again with a network, or place these files there by hand: elsewhere, "
        f"`hf download {repo} --repo-type dataset --local-dir FOLDER {' '.join(files[:2])} ...` fetches them, "
        f"and {folder} is where they go"
    )


def listed(files: Sequence[str]) -> str:
    """The names of files; of many, the first, the last and how many."""
    names = [*files[:2], "...", files[-1]] if len(files) > 4 else list(files)
    return f"{', '.join(names)} ({len(files)} file{'s' * (len(files) > 1)})"


def download(
    repo: str,
    wanted: Mapping[str, "RepoFile"],
    folder: Path,
    check: Callable[[Path], ShardRecord],
    downloads: int,
    progress: bool,
) -> None:
    """Fetch every file, `downloads` at a time, replacing what is there; `check` reads each."""
    cache = folder / ".cache" / "huggingface" / "download"
    _remove_left(cache)
    total = sum(remote.size for remote in wanted.values())
    _check_room(repo, len(wanted), total, folder)
    stop = threading.Event()
    whole: list[int] = []  # sizes

    def one(name: str) -> None:
        _fetch_checked(repo, name, wanted[name], folder, check, stop)
        whole.append(wanted[name].size)

    title = f"fetching {len(wanted)} files of {repo}"
    pool = ThreadPoolExecutor(downloads)
    with Display(title, progress) as display:
        display.say(f"{title}: {_gigabytes(total)} into {folder}")
        try:
            futures = [pool.submit(one, name) for name in wanted]
            while True:
                done, running = wait(futures, POLL_SECONDS, FIRST_EXCEPTION)
                for future in done:
                    future.result()
                if not running:
                    break
                there = sum(whole) + sum(size for _, size, _ in _parts(cache))
                display.tell(
                    f"{_gigabytes(there)} of {_gigabytes(total)}, {there / display.seconds / 1e6:.1f} MB/s, "
                    f"{len(whole)} files whole"
                )
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


def _fetch_checked(
    repo: str, name: str, remote: "RepoFile", folder: Path, check: Callable[[Path], ShardRecord], stop: threading.Event
) -> None:
    path = folder / name
    stated = remote.lfs.sha256 if remote.lfs else None
    for last in (False, True):
        try:
            _fetch(repo, name, folder, stop)
            record = check(path)
            size = path.stat().st_size
            if size == remote.size and stated in (None, record.sha256):
                return
            raise DataError(
                f"{path}: is not what the hub states, got {size} bytes, sha256 {record.sha256}; "
                f"stated are {remote.size} bytes, sha256 {stated}"
            )
        except PausedError:
            if last or stop.is_set():
                raise
        except DataError as error:
            if last:
                path.unlink(missing_ok=True)
                raise DataError(f"{error}; it was fetched twice from {repo}, and removed") from error
    raise AssertionError


def _fetch(repo: str, name: str, folder: Path, stop: threading.Event) -> None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import tqdm

    class Stoppable(tqdm):
        """Shows nothing, and ends the download when asked to."""

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **{**kwargs, "disable": True})

        def update(self, n: float | None = 1) -> bool | None:
            if stop.is_set():
                raise InterruptedError("another file failed")
            return super().update(n)

    try:
        hf_hub_download(repo, name, repo_type="dataset", local_dir=folder, force_download=True, tqdm_class=Stoppable)
    except Exception as error:  # the hub's own errors and those of whichever http client it uses
        if isinstance(error, OSError) and error.errno is not None:  # of this machine: a full disk
            raise
        raise _by_hand(repo, [name], folder, error) from error


def _check_room(repo: str, files: int, needed: int, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if needed + SPARE_BYTES > free:
        raise DataError(
            f"{folder}: has too little room for {files} files of {repo}, got {_gigabytes(free)} free; "
            f"needed are {_gigabytes(needed + SPARE_BYTES)}: a smaller data.shards or another data.folder"
        )


def _parts(cache: Path) -> Iterator[tuple[Path, int, float]]:
    """The parts of files being fetched, with size and time of change."""
    for path in cache.glob("**/*.incomplete"):
        with contextlib.suppress(FileNotFoundError):
            state = path.stat()
            yield path, state.st_size, state.st_mtime


def _remove_left(cache: Path) -> None:
    for path, _, changed in _parts(cache):
        if time.time() - changed > LEFT_SECONDS:
            path.unlink(missing_ok=True)


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
