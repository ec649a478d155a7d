"""One process at a time in a folder. The lock goes with its process, however that ends."""

import errno
import fcntl
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

LOCK = ".lock"
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)  # some network file systems

log = logging.getLogger("ramen")


@contextmanager
def exclusive(folder: Path, unless: Path | None = None, wait: bool = True) -> Iterator[bool]:
    """Hold a folder, made if need be, waiting for whoever has it. False, holding nothing, once `unless` exists or not to wait."""
    while unless is None or not unless.exists():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # who had it has just renamed or removed it
            continue
        try:
            if not _lock(descriptor, folder, wait):
                break
            if not _is_at(descriptor, folder / LOCK):
                continue
            if unless is not None and unless.exists():
                discard(folder)
                continue
            yield True
            return
        finally:
            os.close(descriptor)
    yield False


def held(folder: Path) -> bool:
    """Whether a process holds the folder. Two who look do not take each other for one."""
    with suppress(OSError), (folder / LOCK).open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def discard(folder: Path) -> None:
    """Remove a folder that is held: out of the way at once, so that the next to come starts in a new one."""
    away = folder.with_name(f"{folder.name}.{uuid4().hex[:8]}")
    try:
        folder.rename(away)
    except OSError:
        away = folder
    shutil.rmtree(away, ignore_errors=True)


def _lock(descriptor: int, folder: Path, wait: bool) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if not wait:
            return False
        log.warning("%s: another process is at work in it; waiting for it to end", folder)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
