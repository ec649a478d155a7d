import json
import os
from pathlib import Path

import pytest

from ramen.data import checksum
from ramen.data.checksum import CHECKSUMS, read_sealed, write_sealed
from ramen.data.dataset import open_dataset
from ramen.data.shard import read_record
from ramen.errors import DataError


@pytest.fixture
def prepared(text_source, jsonl, monkeypatch):
    """A prepared data set, and a list of the shards that are read from here on."""
    data = text_source(str(jsonl)).dataset(progress=False)
    read = []
    monkeypatch.setattr(
        checksum, "read_record", lambda path, tokenizer: read.append(path.name) or read_record(path, tokenizer)
    )
    return data, read


def test_a_start_reads_no_shard(prepared):
    data, read = prepared
    assert open_dataset(data.folder) == data and read == []


def test_a_touched_shard_is_read_once(prepared):
    data, read = prepared
    data.train[1].touch()
    assert open_dataset(data.folder) == open_dataset(data.folder) == data
    assert read == [data.train[1].name]


def test_without_notes_all_shards_are_read_once(prepared):
    data, read = prepared
    path = data.folder / CHECKSUMS
    whole = path.read_text()
    for content in ("{", "[]", '{"train_000001.bin": 3}', whole.replace('"bytes": ', '"bytes": 1'), None):
        read.clear()
        path.unlink() if content is None else path.write_text(content)
        assert open_dataset(data.folder) == open_dataset(data.folder) == data
        assert sorted(read) == sorted(path.name for path in data.train + data.validation)


def test_a_changed_shard_is_refused_even_with_its_old_time(prepared):
    data, _ = prepared
    path = data.train[0]
    state = path.stat()
    content = bytearray(path.read_bytes())
    content[1030] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    for _ in range(2):
        with pytest.raises(DataError, match=r"train_000001\.bin: was changed, got sha256"):
            open_dataset(data.folder)
    (data.folder / CHECKSUMS).unlink()
    with pytest.raises(DataError, match="is not the shard of the manifest"):
        open_dataset(data.folder)


def test_a_folder_that_cannot_be_written_to_is_read_each_time(prepared, monkeypatch, caplog):
    data, read = prepared

    def refuse(path, content):
        raise DataError(f"{path}: cannot be written")

    monkeypatch.setattr(checksum, "write_sealed", refuse)
    data.train[0].touch()
    assert open_dataset(data.folder) == open_dataset(data.folder) == data
    assert read == [data.train[0].name] * 2 and "every start will read" in caplog.text


def test_notes_are_of_states_and_records(prepared):
    data, _ = prepared
    notes = json.loads((data.folder / CHECKSUMS).read_text())["shards"]
    state = data.train[0].stat()
    assert notes[data.train[0].name][0] == [state.st_size, state.st_mtime_ns, state.st_ctime_ns]
    assert notes.keys() == {path.name for path in data.train + data.validation}


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"a": 1}', '{"a": 2, "sha256": "STATED"}'])
def test_a_sealed_file_tells_a_change(tmp_path: Path, damage):
    path = tmp_path / "a.json"
    write_sealed(path, {"a": 1})
    assert read_sealed(path) == {"a": 1}
    path.write_text(damage.replace("STATED", json.loads(path.read_text())["sha256"]))
    with pytest.raises(ValueError):
        read_sealed(path)
