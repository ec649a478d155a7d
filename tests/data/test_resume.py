"""A preparation that is killed, at any moment, is continued and ends with the same bytes."""

import errno
import hashlib
import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ramen.data.prepare import PausedError, SplitWriter
from ramen.errors import DataError

ROOT = Path(__file__).resolve().parents[2]
WAIT = 0.01
CODE = """
from ramen.data.text import Text
Text(**{settings!r}).dataset(progress=False)
"""


def shards(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.bin")}


class KilledError(BaseException):
    pass


@pytest.fixture
def corpus(tmp_path):
    """4 MB, which take several chunks and shards."""
    path = tmp_path / "big.jsonl"
    rng = random.Random(0)
    path.write_text("".join(f'{{"text": "{number} {"x" * rng.randrange(10_000)}"}}\n' for number in range(800)))
    return path


@pytest.fixture
def source(text_source, corpus):
    return lambda **changed: text_source(str(corpus), **{"shard_tokens": 300_000, **changed})


@pytest.fixture
def whole(source, tmp_path):
    """The result of a preparation without interruption."""
    return source(folder=str(tmp_path / "whole")).dataset(progress=False)


def fails_at(source, number, error):
    """The source raises the error in place of a document."""
    documents = source.documents

    def lose():
        for place, text in enumerate(documents()):
            if place == number:
                raise error
            yield text

    source.documents = lose
    return source


@pytest.mark.parametrize("number", [0, 100, 450, 799])
def test_wherever_it_dies_it_is_continued(source, whole, tmp_path, number):
    with pytest.raises(KilledError):
        fails_at(source(), number, KilledError()).dataset(progress=False)
    (left,) = (tmp_path / "prepared").iterdir()
    assert left.name.startswith(".") and left.name.endswith(".partial")
    finished = {path: path.stat().st_mtime_ns for path in left.glob("*.bin")}
    assert len(finished) >= 3 or number < 450
    data = source().dataset(progress=False)
    assert data.hash == whole.hash and shards(data.folder) == shards(whole.folder)
    assert all((data.folder / path.name).stat().st_mtime_ns == time for path, time in finished.items())
    assert list((tmp_path / "prepared").iterdir()) == [data.folder]
    names = {path.name for path in data.folder.iterdir()} - {
        path.name for path in data.train.paths + data.validation.paths
    }
    assert names == {"manifest.json", "tokenizer.json"}


@pytest.mark.parametrize("damage", ["truncate", "remove", "manifest", "tokenizer", "origin", "junk"])
def test_what_cannot_be_relied_on_is_begun_again(source, whole, tmp_path, damage):
    with pytest.raises(KilledError):
        fails_at(source(), 790, KilledError()).dataset(progress=False)
    (left,) = (tmp_path / "prepared").iterdir()
    again = source()
    if damage == "truncate":
        (left / "train_000002.bin").write_bytes(b"")
    elif damage == "remove":
        (left / "train_000001.bin").unlink()
    elif damage == "origin":
        again.origin = lambda: "another commit"
    elif damage == "junk":
        (left / "train_000001.part").write_bytes(b"x" * 5000)
    else:
        (left / f"{damage}.json").write_text("{")
    data = again.dataset(progress=False)
    assert data.hash == whole.hash and shards(data.folder) == shards(whole.folder)


def test_a_lost_source_is_continued_later(source, whole, tmp_path):
    with pytest.raises(PausedError, match="the network is gone"):
        fails_at(source(), 500, PausedError("the network is gone")).dataset(progress=False)
    assert next((tmp_path / "prepared").glob(".*.partial/train_000001.bin"))
    assert source().dataset(progress=False).hash == whole.hash


def test_killed_again_and_again_it_ends_with_the_same_bytes(source, whole, corpus, corpus_settings):
    interrupted = source()
    settings = {**corpus_settings, "files": str(corpus), "separator": None, "shard_tokens": 300_000}
    code = CODE.format(settings=settings)
    folder = interrupted.prepared_folder()
    rng = random.Random(0)

    def finished():
        return len(list(folder.with_name(f".{folder.name}.partial").glob("*.bin"))) + 99 * folder.exists()

    for _ in range(4):
        before = finished()
        process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
        while process.poll() is None and finished() <= before:
            time.sleep(WAIT)
        time.sleep(rng.random() * 0.02)
        process.kill()
        process.wait()
    data = interrupted.dataset(progress=False)
    assert data.hash == whole.hash and shards(data.folder) == shards(whole.folder)


@pytest.mark.parametrize("full_at", [1, 5, 9])
def test_a_full_disk_is_told_and_leaves_nothing(text_source, jsonl, monkeypatch, tmp_path, full_at):
    calls = []
    write = SplitWriter.write

    def fill(writer, documents):
        calls.append(1)
        if len(calls) == full_at:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(writer, documents)

    monkeypatch.setattr(SplitWriter, "write", fill)
    with pytest.raises(DataError, match=r"cannot be prepared, got .*No space left on device.*with room"):
        text_source(str(jsonl)).dataset(progress=False)
    assert not list((tmp_path / "prepared").iterdir())


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("file systems cannot be mounted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("characters", [128_000, 200_000, 1_000_000])
def test_a_disk_that_is_really_full(text_source, small_disk, tmp_path, characters):
    size = characters // 20
    lines = [f'{{"text": "{number:05d} {"y" * (size - 7)}"}}\n' for number in range(20)]
    (tmp_path / "big.jsonl").write_text("".join(lines))
    source = text_source(str(tmp_path / "big.jsonl"), folder=str(small_disk), shard_tokens=50_000)
    with pytest.raises(DataError, match=r"No space left on device"):
        source.dataset(progress=False)
    assert not list(small_disk.iterdir())


def test_an_unfinished_shard_has_no_shards_name(source, tmp_path):
    with pytest.raises(KilledError):
        fails_at(source(shard_tokens=10**8), 790, KilledError()).dataset(progress=False)
    (left,) = (tmp_path / "prepared").iterdir()
    assert {path.name for path in left.glob("*_*")} == {"train_000001.part", "validation_000000.part"}
    assert json.loads((left / "manifest.json").read_text())["about"]["origin"] is None
