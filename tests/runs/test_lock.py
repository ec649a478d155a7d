"""A folder has one process at a time, on every file system, and is free as soon as that process is gone."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ramen.runs.lock import discard, exclusive, is_locked, lock

HOLD = "import sys, time; from pathlib import Path; from ramen.runs.lock import lock\n"
WITHOUT = """
import errno, fcntl, os
def flock(*arguments):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
fcntl.flock = flock
"""


@contextmanager
def locked(folder: Path, flock: bool) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the folder."""
    code = (
        f"{'' if flock else WITHOUT}{HOLD}lease = lock(Path(sys.argv[1])); print('held', flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout and process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(params=[True, False], ids=["flock", "no flock"])
def flock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """True on a file system with locks."""

    def missing(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    if not request.param:
        monkeypatch.setattr("fcntl.flock", missing)
        monkeypatch.setattr("ramen.runs.lock.LOOK_SECONDS", -29.0)  # so that no test waits for a heartbeat
    return request.param


def test_two_processes_do_not_hold_one_folder(tmp_path: Path, flock: bool) -> None:
    with locked(tmp_path, flock) as process:
        assert is_locked(tmp_path)
        assert lock(tmp_path) is None
        process.send_signal(signal.SIGSTOP)
        assert is_locked(tmp_path)
    assert not is_locked(tmp_path)
    with exclusive(tmp_path, wait=False) as free:
        assert free and is_locked(tmp_path)
    assert not is_locked(tmp_path)


def test_a_look_makes_no_file_and_takes_nothing(tmp_path: Path, flock: bool) -> None:
    assert not is_locked(tmp_path) and not is_locked(tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_was_discarded_starts_anew(tmp_path: Path, flock: bool) -> None:
    folder = tmp_path / "work"
    with exclusive(folder) as first:
        (folder / "file").touch()
        discard(folder)
        with exclusive(folder, wait=False) as second:
            assert first and second
        assert not (folder / "file").exists()


def test_a_folder_that_is_done_is_not_held(tmp_path: Path) -> None:
    (tmp_path / "done").mkdir()
    with exclusive(tmp_path / "work", unless=tmp_path / "done") as free:
        assert not free
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("place", ["dangling", "/proc/self"])
def test_a_place_that_cannot_be_locked_is_an_error(tmp_path: Path, place: str) -> None:
    """And no loop without end."""
    (tmp_path / "dangling").mkdir()
    (tmp_path / "dangling" / ".lock").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OSError, match=r"."):
        lock(tmp_path / place)
