"""Several processes: the same bytes, no orphans, no hanging."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ramen.data import tokenize
from ramen.data.tokenize import Documents, PausedError, Tokenized, chunks
from ramen.data.tokenizer import byte_tokenizer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(tokenize, "CHUNK_CHARACTERS", 500)
    monkeypatch.setattr(tokenize, "SERIAL_CHUNKS", 2)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "verified.json"}


def test_the_bytes_are_the_same_with_one_and_two_workers(text_source, jsonl, tmp_path):
    one = text_source(str(jsonl), tokenizer="bpe", folder=str(tmp_path / "one"), workers=1).dataset(progress=False)
    two = text_source(str(jsonl), tokenizer="bpe", folder=str(tmp_path / "two"), workers=2).dataset(progress=False)
    assert contents(one.folder) == contents(two.folder) and one.hash == two.hash
    assert len(one.train) == 2


def test_chunks_are_bounded_and_whole():
    texts = ["a" * 300, "", "b" * 300, "c" * 900, "d"]
    assert list(chunks(iter(texts))) == [texts[:3], texts[3:4], texts[4:]]


def test_empty_documents_count_as_read_and_leave_nothing():
    found = tokenize.tokenize(["", "ab", " \n"], byte_tokenizer(), 1.0)
    assert isinstance(found, Tokenized) and found.read == 3 and found.survey.documents == 1
    assert found.validation.ids.tolist() == [256, 97, 98] and found.validation.lengths == [3]
    assert found.train == Documents(found.train.ids, []) and not len(found.train.ids)


def test_a_small_corpus_starts_no_process(text_source, jsonl, monkeypatch):
    monkeypatch.setattr(tokenize, "SERIAL_CHUNKS", 1000)
    monkeypatch.setattr(tokenize, "ProcessPoolExecutor", None)
    text_source(str(jsonl), workers=8).dataset(progress=False)


def test_a_killed_worker_is_told(text_source, jsonl, monkeypatch):
    source = text_source(str(jsonl), workers=2)
    with monkeypatch.context() as patch, pytest.raises(PausedError, match=r"data\.workers: a worker process has ended"):
        patch.setattr(tokenize, "_start", os._exit)
        source.dataset(progress=False)
    source.workers = 1
    assert source.dataset(progress=False).train_documents > 0


SCRIPT = """
import sys
sys.path.insert(0, {root!r})
from ramen.data import tokenize
from ramen.data.text import Text
tokenize.CHUNK_CHARACTERS, tokenize.SERIAL_CHUNKS = 1000, 2
{guard}    Text(**{settings!r}).dataset(progress=False)
"""


def _script(tmp_path, text_source, files, guard):
    source = text_source(files, shard_tokens=10**6, workers=2)
    settings = {**vars(source), "folder": str(source.folder)}
    path = tmp_path / "script.py"
    path.write_text(SCRIPT.format(root=str(ROOT), guard=guard, settings=settings))
    return [sys.executable, str(path)], source


def test_a_script_without_a_guard_is_told_and_does_not_hang(text_source, jsonl, tmp_path):
    command, _ = _script(tmp_path, text_source, str(jsonl), "if True:\n")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (
        done.returncode == 1
        and "DataError: data.workers: this script starts its work when it is imported" in done.stderr
    )
    assert "PausedError: data.workers: a worker process has ended" in done.stderr


def _children(process):
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            if path.read_text().rpartition(")")[2].split()[1] == str(process):
                found.append(path.parent)
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_workers_end_with_their_parent(text_source, tmp_path):
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(f'{{"text": "{number} {"word " * 300}"}}\n' for number in range(20_000)))
    command, source = _script(tmp_path, text_source, str(corpus), "if __name__ == '__main__':\n")
    parent = subprocess.Popen(command)
    work = source.prepared_folder().with_name(f".{source.prepared_folder().name}.partial")
    workers = []
    while parent.poll() is None and not ((work / "progress.json").exists() and len(workers) >= 2):
        time.sleep(0.02)
        workers = _children(parent.pid)
    assert parent.poll() is None, "it ended before it could be killed"
    parent.kill()
    parent.wait()
    end = time.monotonic() + 20
    while any(path.exists() and "Z" not in (path / "stat").read_text().split()[2] for path in workers):
        assert time.monotonic() < end, "workers outlive their parent"
        time.sleep(0.05)
