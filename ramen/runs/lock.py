"""One process at a time in a folder. The lock ends with its process, however that ends.

Where a file system has no locks (many of clusters), a file with host, process and a heartbeat stands for one: it is taken over
as soon as the process on this host is gone, or when nothing was heard of another host's for `LEASE_SECONDS`.
"""

import errno
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from filelock import BaseFileLock, FileLock, SoftFileLease, Timeout

LOCK, LEASE = ".lock", ".lease"
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
LOOK_SECONDS = 0.2  # longer than another process takes to look (`is_locked`)
LEASE_SECONDS = 30.0

log = logging.getLogger("ramen")


def lock(folder: Path, wait: bool = False) -> BaseFileLock | None:
    """Lock a folder, made if need be; the lock ends with the object. None if another process has it and `wait` is false."""
    warned = False
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            return _acquire(folder, LOOK_SECONDS, LEASE_SECONDS + LOOK_SECONDS)
        except FileNotFoundError:  # whoever had the folder has just renamed or removed it
            continue
        except Timeout:
            (folder / LOCK).touch()  # OSError where no file can be made, as in /proc: filelock would wait for ever
            if not wait:
                return None
            if not warned:
                log.warning("%s: another process is at work in it; waiting for it to end", folder)
            warned = True


@contextmanager
def exclusive(folder: Path, unless: Path | None = None, wait: bool = True) -> Iterator[bool]:
    """Hold a folder while the context lasts. Yields False without the lock if `unless` exists, or if it is taken and not `wait`."""
    locked = None if unless is not None and unless.exists() else lock(folder, wait)
    try:
        if locked and unless is not None and unless.exists():  # whoever had the folder finished it
            discard(folder)
            yield False
        else:
            yield locked is not None
    finally:
        if locked:
            locked.release()


def is_locked(folder: Path) -> bool:
    if not (folder / LOCK).is_file():
        return False
    try:
        _acquire(folder, 0, 0).release()
    except OSError as error:
        return isinstance(error, Timeout)
    return False


def discard(folder: Path) -> None:
    """Remove a folder that is held: renamed first, so that the next to come starts in a new one."""
    aside = folder.with_name(f"{folder.name}.{uuid4().hex[:8]}")
    try:
        folder.rename(aside)
    except OSError:
        aside = folder
    shutil.rmtree(aside, ignore_errors=True)


def _acquire(folder: Path, seconds: float, lease_seconds: float) -> BaseFileLock:
    """Timeout when it is held longer than these seconds; OSError when there is no way to lock."""
    file_lock: BaseFileLock = FileLock(folder / LOCK, timeout=seconds, fallback_to_soft=False, thread_local=False)
    try:
        file_lock.acquire()
    except OSError as error:
        if error.errno not in NO_LOCKS:  # a Timeout has none
            raise
        file_lock = SoftFileLease(
            folder / LEASE,
            timeout=lease_seconds,
            lease_duration=LEASE_SECONDS,
            on_compromise=lambda loss: log.error("%s: another process may work in it: %s", folder, loss),
            thread_local=False,
        )
        file_lock.acquire()
    return file_lock
