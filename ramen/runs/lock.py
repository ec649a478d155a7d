"""One process at a time in a folder. The lock ends with its process, however that ends."""

import errno
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from filelock import BaseFileLock, FileLock, Timeout

from ramen.errors import DataError

LOCK = ".lock"
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)  # some network file systems
LOOK_SECONDS = 0.2  # longer than another process takes to look (`is_locked`)

log = logging.getLogger("ramen")


def lock(folder: Path, wait: bool = False) -> BaseFileLock | None:
    """Lock a folder, made if need be; the lock ends with the object. None if another process has it and `wait` is false."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        found = FileLock(folder / LOCK)
        try:
            try:
                found.acquire(timeout=LOOK_SECONDS)
            except Timeout:
                (folder / LOCK).touch()  # OSError where no file can be made, as in /proc: filelock would wait for ever
                if not wait:
                    return None
                log.warning("%s: another process is at work in it; waiting for it to end", folder)
                found.acquire()
        except FileNotFoundError:  # who had it has just renamed or removed the folder
            continue
        except OSError as error:
            if error.errno in NO_LOCKS:
                raise DataError(f"{folder}: its file system has no locks, got {error.strerror}") from error
            raise
        return found


@contextmanager
def exclusive(folder: Path, unless: Path | None = None, wait: bool = True) -> Iterator[bool]:
    """Hold a folder while the context lasts. Yields False without the lock if `unless` exists, or if it is taken and not `wait`."""
    found = None if unless is not None and unless.exists() else lock(folder, wait)
    try:
        if found and unless is not None and unless.exists():  # whoever had the folder finished it
            discard(folder)
            yield False
        else:
            yield found is not None
    finally:
        if found:
            found.release()


def is_locked(folder: Path) -> bool:
    """Whether a process holds the folder."""
    if not (folder / LOCK).is_file():
        return False
    try:
        with FileLock(folder / LOCK, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:
        return False


def discard(folder: Path) -> None:
    """Remove a folder that is held: renamed first, so that the next to come starts in a new one."""
    aside = folder.with_name(f"{folder.name}.{uuid4().hex[:8]}")
    try:
        folder.rename(aside)
    except OSError:
        aside = folder
    shutil.rmtree(aside, ignore_errors=True)
