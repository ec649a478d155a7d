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

from ramen.data import prepare as preparation
from ramen.data import tokenize
from ramen.data.journal import Journal
from ramen.data.shard import open_shard
from ramen.data.tokenize import PausedError
from ramen.data.writer import SplitWriter
from ramen.errors import DataError

ROOT = Path(__file__).resolve().parents[2]
WAIT = 0.01

CODE = """
import os
os.fsync = lambda file: None  # a kill does not lose what the system has; a loss of power would
from ramen.data import prepare, tokenize
from ramen.data.text import Text
prepare.JOURNAL_SECONDS = 0
tokenize.CHUNK_CHARACTERS, tokenize.SERIAL_CHUNKS = {chunk}, 2
if __name__ == "__main__":
    Text(**{settings!r}).dataset(progress=False)
"""


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(tokenize, "CHUNK_CHARACTERS", 500)
    monkeypatch.setattr(preparation, "JOURNAL_SECONDS", 0)


def shards(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.bin")}


class KilledError(BaseException):
    pass


def dies_at(monkeypatch, owner, name, call):
    """The method dies at its `call`-th call, before it has done anything."""
    calls = []
    method = getattr(owner, name)

    def counted(*args):
        calls.append(1)
        if len(calls) == call:
            raise KilledError
        return method(*args)

    monkeypatch.setattr(owner, name, counted)


@pytest.mark.parametrize("call", [1, 2, 6, 9])
@pytest.mark.parametrize(
    ("owner", "name"),
    [(SplitWriter, "_append"), (SplitWriter, "_close_shard"), (SplitWriter, "sync"), (Journal, "save")],
)
def test_wherever_it_dies_it_is_continued(text_source, jsonl, monkeypatch, tmp_path, owner, name, call):
    whole = text_source(str(jsonl), folder=str(tmp_path / "whole")).dataset(progress=False)
    source = text_source(str(jsonl))
    with monkeypatch.context() as patch:
        dies_at(patch, owner, name, call)
        with pytest.raises(KilledError):
            source.dataset(progress=False)
    (left,) = (tmp_path / "prepared").iterdir()
    assert left.name.startswith(".") and left.name.endswith(".partial")
    begun = []
    from_number = source.documents_from
    monkeypatch.setattr(source, "documents_from", lambda number: begun.append(number) or from_number(number))
    data = source.dataset(progress=False)
    assert data.hash == whole.hash and shards(data.folder) == shards(whole.folder)
    assert begun[0] > 0 or call < 3
    assert list((tmp_path / "prepared").iterdir()) == [data.folder]
    assert not (data.folder / "progress.json").exists() and not (data.folder / ".lock").exists()


@pytest.mark.parametrize("damage", ["truncate", "remove", "journal", "count", "tokenizer", "origin"])
def test_what_cannot_be_relied_on_is_begun_again(text_source, jsonl, monkeypatch, tmp_path, damage):
    whole = text_source(str(jsonl), folder=str(tmp_path / "whole")).dataset(progress=False)
    source = text_source(str(jsonl))
    with monkeypatch.context() as patch:
        dies_at(patch, SplitWriter, "_append", 12)
        with pytest.raises(KilledError):
            source.dataset(progress=False)
    (left,) = (tmp_path / "prepared").iterdir()
    if damage == "truncate":
        (left / "train_000001.bin").write_bytes(b"")
    elif damage == "remove":
        (left / "validation_000000.bin").unlink()
    elif damage == "count":
        path = left / "progress.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"read": 3}))
    elif damage == "origin":
        monkeypatch.setattr(source, "origin", lambda: "another commit")
    else:
        (left / {"journal": "progress.json", "tokenizer": "tokenizer.json"}[damage]).write_text("{")
    data = source.dataset(progress=False)
    assert data.hash == whole.hash and shards(data.folder) == shards(whole.folder)


def test_a_lost_source_is_continued_later(text_source, jsonl, monkeypatch, tmp_path):
    source = text_source(str(jsonl))
    documents = source.documents

    def lose():
        for number, text in enumerate(documents()):
            if number == 150:
                raise PausedError("the network is gone")
            yield text

    monkeypatch.setattr(source, "documents", lose)
    with pytest.raises(PausedError, match="the network is gone"):
        source.dataset(progress=False)
    assert next((tmp_path / "prepared").glob(".*.partial/progress.json"))
    monkeypatch.setattr(source, "documents", documents)
    whole = text_source(str(jsonl), folder=str(tmp_path / "whole")).dataset(progress=False)
    assert source.dataset(progress=False).hash == whole.hash


def test_killed_again_and_again_it_ends_with_the_same_bytes(text_source, tmp_path, monkeypatch):
    corpus = tmp_path / "corpus.jsonl"
    rng = random.Random(0)
    corpus.write_text(
        "".join(f'{{"text": "{number} {"x" * rng.randrange(2000)}"}}\n' for number in range(800)), encoding="utf-8"
    )
    whole = text_source(str(corpus), folder=str(tmp_path / "whole"), shard_tokens=100_000).dataset(progress=False)
    source = text_source(str(corpus), shard_tokens=100_000)
    code = CODE.format(chunk=8_000, settings={**vars(source), "folder": str(source.folder)})
    work = source.prepared_folder().with_name(f".{source.prepared_folder().name}.partial")
    for _ in range(4):
        process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
        before = _state(work)
        while process.poll() is None and _state(work) == before:
            time.sleep(WAIT)
        time.sleep(rng.random() * 0.2)
        process.kill()
        process.wait()
    assert source.prepared_folder().exists() or (work / "progress.json").exists()
    data = source.dataset(progress=False)
    assert data.hash == whole.hash and shards(data.folder) == shards(whole.folder)


def _state(folder):
    path = folder / "progress.json"
    return path.stat().st_mtime_ns if path.exists() else None


@pytest.mark.parametrize("full_at", [1, 5, 9])
def test_a_full_disk_is_told_and_leaves_nothing(text_source, jsonl, monkeypatch, tmp_path, full_at):
    calls = []
    append = SplitWriter._append

    def fill(writer, ids):
        calls.append(1)
        if len(calls) == full_at:
            raise OSError(errno.ENOSPC, "No space left on device")
        append(writer, ids)

    monkeypatch.setattr(SplitWriter, "_append", fill)
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


def test_a_shard_that_is_being_filled_is_no_shard(text_source, jsonl, monkeypatch, tmp_path):
    dies_at(monkeypatch, SplitWriter, "_close_shard", 1)
    with pytest.raises(KilledError):
        text_source(str(jsonl)).dataset(progress=False)
    (left,) = (tmp_path / "prepared").glob(".*.partial/train_*.bin")
    with pytest.raises(DataError, match="is no token shard, got magic number 0"):
        open_shard(left)
