"""Shards of a repository: fetched from a hub that stands on this machine, which can be told to misbehave."""

import hashlib
import json
import logging
import shutil
import threading
from collections import Counter, namedtuple
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import pytest
from huggingface_hub import constants

from ramen.data import pretokenized
from ramen.data.pretokenized import Pretokenized
from ramen.data.tokenizer import gpt2_tokenizer
from ramen.errors import DataError

BOS = 50256
REPO = "someone/fineweb-gpt2"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
TEXTS = ["Once upon a time", "there was a pot of ramen — 拉麺", "and it was good." * 40]


class Hub(ThreadingHTTPServer):
    """The part of the hub that is needed: sizes and sha256 of files, and the files, by range too."""

    daemon_threads = True

    def __init__(self, files):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = files
        self.served = Counter()
        self.faults = {}  # name -> [a change of its bytes for the first download, for the second ...]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, status, body, **headers):
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self):
        sent = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if not self.path.startswith(f"/api/datasets/{REPO}/paths-info/"):
            return self.answer(404, b"{}", X_Error_Code="RepoNotFound")
        asked = [unquote(part.partition("=")[2]) for part in sent.split("&") if part.startswith("paths=")]
        entries = []
        for name in asked:
            if name in self.server.files:
                content = self.server.files[name]
                sha256 = hashlib.sha256(content).hexdigest()
                lfs = {"size": len(content), "oid": sha256, "pointerSize": 134}
                entries.append({"type": "file", "path": name, "size": len(content), "oid": "0" * 40, "lfs": lfs})
        return self.answer(200, json.dumps(entries).encode(), Content_Type="application/json")

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        name = self.path.rpartition("/")[2]
        if name not in self.server.files:
            return self.answer(404, b"", X_Error_Code="EntryNotFound")
        content = self.server.files[name]
        headers = {
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X_Repo_Commit": COMMIT,
            "Accept_Ranges": "bytes",
        }
        if self.command == "GET":
            self.server.served[name] += 1
            if faults := self.server.faults.get(name):
                content = faults.pop(0)(content)
        return self.answer(200, content, **headers)


@pytest.fixture
def hub(tmp_path, monkeypatch, write_shard):
    """A hub with a validation shard and three training shards, each beginning within a document."""
    tokenizer = gpt2_tokenizer()
    files = {}
    for number in range(4):
        ids = [1, 2, 3]
        for text in TEXTS[number % 3 :] + TEXTS:
            ids += [BOS, *tokenizer.encode(f"{text} {number}")]
        name = f"fineweb_{'train' if number else 'val'}_{number:06d}.bin"
        write_shard(tmp_path / name, ids)
        files[name] = (tmp_path / name).read_bytes()
        (tmp_path / name).unlink()
    server = Hub(files)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def source(tmp_path):
    defaults = {
        "repo": REPO, "prefix": "fineweb", "available": 3, "shards": 2, "folder": str(tmp_path / "data"),
        "sequence_length": 16, "batching": "documents", "long_documents": "split", "validation": "spread",
        "validation_tokens": None, "downloads": 2,
    }  # fmt: skip
    return lambda **changed: Pretokenized(**defaults | changed)


def test_shards_are_fetched_once_and_are_what_the_hub_has(hub, source, tmp_path, capsys):
    repository = source()
    data = repository.dataset()
    assert [path.name for path in data.train.paths] == ["fineweb_train_000001.bin", "fineweb_train_000002.bin"]
    assert [path.name for path in data.validation.paths] == ["fineweb_val_000000.bin"]
    assert all(path.read_bytes() == hub.files[path.name] for path in data.train.paths + data.validation.paths)
    assert data.folder == tmp_path / "data" / "someone_fineweb-gpt2"
    assert repository.vocabulary == data.tokenizer.vocabulary == 50257
    message = capsys.readouterr().err
    assert "(3 files)" in message and f"of {REPO}, into {data.folder}" in message
    before = dict(hub.served)
    assert repository.dataset() == data and hub.served == before == dict.fromkeys(before, 1)
    rows = repository.validation_batch(data.validation.paths, BOS)
    assert rows.tokens.max() == BOS and rows.counted > 0


def test_bytes_are_those_of_the_text(hub, source):
    data = source(shards=1).dataset(progress=False)
    heads = [len(data.tokenizer.decode([1, 2, 3]).encode())]
    texts = [f"{text} 0".encode() for text in TEXTS * 2]
    assert data.validation.bytes == sum(heads) + sum(map(len, texts))
    assert data.validation.documents == 6


def test_more_shards_fetch_only_what_is_new(hub, source):
    one = source(shards=1).dataset(progress=False)
    three = source(shards=3).dataset(progress=False)
    assert hub.served == dict.fromkeys(hub.files, 1)
    assert one.hash != three.hash and three.train.paths[:1] == one.train.paths
    assert source(shards=1).dataset(progress=False) == one


def cut(content):
    return content[: len(content) // 2]


def flip(content):
    return content[:-1] + bytes([content[-1] ^ 1])


def foreign(content):
    return content[:-2] + b"\xff\xff"


@pytest.mark.parametrize("fault", [cut, flip, foreign])
def test_a_broken_download_is_told_removed_and_fetched_by_the_next_run(hub, source, fault, caplog):
    caplog.set_level(logging.CRITICAL)
    name = "fineweb_train_000001.bin"
    hub.faults[name] = [fault]
    with pytest.raises(DataError) as caught:
        source(shards=1).dataset(progress=False)
    assert name in str(caught.value) and REPO in str(caught.value)
    assert not (source().home / name).exists()
    data = source(shards=1).dataset(progress=False)
    assert data.train.paths[0].read_bytes() == hub.files[name] and hub.served[name] == 2
    assert hub.served["fineweb_val_000000.bin"] == 1, "what was whole stayed"


def test_a_broken_file_is_replaced(hub, source):
    data = source(shards=3).dataset(progress=False)
    for path, fault in zip(data.train.paths, (cut, flip, foreign), strict=True):
        path.write_bytes(fault(hub.files[path.name]))
    data.validation.paths[0].unlink()
    assert source(shards=3).dataset(progress=False) == data
    assert set(hub.served.values()) == {2}


def test_files_put_there_by_hand_are_taken_without_a_network(hub, source):
    repository = source()
    repository.home.mkdir(parents=True)
    for name in repository.names:
        (repository.home / name).write_bytes(hub.files[name])
    data = repository.dataset(progress=False)
    assert not hub.served
    shutil.rmtree(repository.home)
    assert repository.dataset(progress=False) == data


def test_a_start_reads_no_shard(hub, source, monkeypatch):
    data = source().dataset(progress=False)
    monkeypatch.setattr("ramen.data.dataset.read_record", None)
    assert source().dataset(progress=False) == data


def test_too_little_room_is_refused_before_anything_is_fetched(hub, source, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(pretokenized.shutil, "disk_usage", lambda path: usage(10**9, 10**9, 10**6))
    with pytest.raises(DataError, match=r"too little room for 3 files .*got 0\.00 GB free; needed are 0\.07 GB"):
        source().dataset(progress=False)
    assert not hub.served


def test_what_the_repository_does_not_have_is_told(hub, source):
    with pytest.raises(DataError, match=r"has no fineweb_train_000004\.bin, fineweb_train_000005\.bin \(2 files\)"):
        source(available=None, shards=5).dataset(progress=False)
    with pytest.raises(DataError, match="RepositoryNotFoundError"):
        source(repo="someone/else").dataset(progress=False)


def test_without_a_network_it_is_told_what_to_do_by_hand(source, monkeypatch):
    """For real: nobody listens at that port."""
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    repository = source(shards=3)
    with pytest.raises(DataError) as caught:
        repository.dataset(progress=False)
    message = str(caught.value)
    assert message.startswith(f"{REPO}: ") and "ConnectError" in message and str(repository.home) in message
    assert "fineweb_val_000000.bin" in message and "fineweb_train_000003.bin" in message and "by hand" in message
    assert repository.home.is_dir() and "\n" not in message


def test_damaged_notes_cost_a_reading(hub, source):
    data = source(shards=1).dataset(progress=False)
    path = data.folder / "manifest.json"
    content = path.read_text()
    for damaged in ("{", "[]", '{"repo": "x"}', content.replace('"bytes": ', '"bytes": 1')):
        path.write_text(damaged)
        assert source(shards=1).dataset(progress=False) == data


@pytest.mark.parametrize(
    ("fault", "message"), [("cut", "is cut short"), ("foreign", "ids of another tokenizer, got id 65535")]
)
def test_a_damaged_file_put_there_by_hand_is_refused(hub, source, fault, message):
    repository = source()
    repository.home.mkdir(parents=True)
    (repository.home / repository.names[1]).write_bytes(
        {"cut": cut, "foreign": foreign}[fault](hub.files[repository.names[1]])
    )
    with pytest.raises(DataError, match=rf"train_000001\.bin: .*{message}.*; delete it to have it fetched"):
        repository.dataset(progress=False)
    (repository.home / repository.names[1]).unlink()
    assert repository.dataset(progress=False).train.documents > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shards": 4}, r"shards must be in \[1, 3\], got 4"),
        ({"shards": 0}, "shards"),
        ({"downloads": 0}, "downloads"),
        ({"repo": "../x"}, "repo: is no repository"),
        ({"repo": "x"}, "repo"),
        ({"prefix": "a/b"}, "prefix"),
        ({"sequence_length": 1}, "sequence_length"),
    ],
)
def test_settings_out_of_range_are_told(source, settings, message):
    with pytest.raises(ValueError, match=message):
        source(**settings)
