"""A file that is replaced is the old one or the new one, whatever the disk does."""

import errno
import os
from pathlib import Path

import pytest

from ramen.errors import DataError
from ramen.runs.atomic import read_bytes, read_value, write_atomically


def test_the_content_is_the_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.bin"
    for content in (b"one two", b""):
        write_atomically(path, content)
        assert path.read_bytes() == content
        assert list(path.parent.iterdir()) == [path]


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"before")

    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(DataError, match="cannot be written, got No space left on device"):
        write_atomically(path, b"after")
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xff", b"\0", b"[" * 50_000])
def test_what_is_no_json_is_one_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(b'{"a": [1]}')
    assert read_value(tmp_path / "a.json") == {"a": [1]}
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"."):
        read_value(tmp_path / "a.json")


def test_aliases_that_multiply_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    lines = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    path.write_text("\n".join(lines))
    with pytest.raises(ValueError, match="aliases"):
        read_value(path)
    path.write_text("a: 2 * 3\nb: '*x'\nc: [1, 2]\n")
    assert read_value(path) == {"a": "2 * 3", "b": "*x", "c": [1, 2]}


@pytest.mark.parametrize("content", [b"a: [", b"\xff\xfe\x00", b"d: 2024-99-99", b"[" * 50_000, b"{[1]: 2}"])
def test_what_is_no_yaml_is_one_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=r"."):
        read_value(tmp_path / "a.yaml")


def test_only_ordinary_files_of_bounded_size_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "large").write_bytes(b"12345")
    for name in ("pipe", "device", "loop", "large", "."):
        with pytest.raises((OSError, ValueError)):
            read_bytes(tmp_path / name, most_bytes=4)
    assert read_bytes(tmp_path / "large", most_bytes=5) == b"12345"
