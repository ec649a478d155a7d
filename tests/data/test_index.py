import json
import os
import shutil
from pathlib import Path

import pytest

from ramen.data import dataset
from ramen.data.dataset import MANIFEST, ShardIndex, open_dataset
from ramen.data.shard import read_record
from ramen.errors import DataError
from ramen.runs.atomic import sha256_of


@pytest.fixture
def prepared(text_source, jsonl, monkeypatch):
    """A prepared data set, and a list of the shards that are read from here on."""
    data = text_source(str(jsonl)).dataset(progress=False)
    read = []
    monkeypatch.setattr(
        dataset, "read_record", lambda path, tokenizer: read.append(path.name) or read_record(path, tokenizer)
    )
    return data, read


def test_a_start_reads_no_shard(prepared):
    data, read = prepared
    assert open_dataset(data.folder) == data and read == []


def test_a_touched_shard_is_read_once(prepared):
    data, read = prepared
    data.train.paths[1].touch()
    assert open_dataset(data.folder) == open_dataset(data.folder) == data
    assert read == [data.train.paths[1].name]


def test_shards_in_another_folder_are_all_read_once(prepared, tmp_path):
    data, read = prepared
    copied = tmp_path / "copied"
    shutil.copytree(data.folder, copied)
    for shard in copied.glob("*.bin"):
        shard.touch()
    assert open_dataset(copied).hash == open_dataset(copied).hash == data.hash
    assert sorted(read) == sorted(path.name for path in data.train.paths + data.validation.paths)


def test_a_changed_shard_is_refused_even_with_its_old_time(prepared):
    data, _ = prepared
    path = data.train.paths[0]
    state = path.stat()
    content = bytearray(path.read_bytes())
    content[1030] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    for _ in range(2):
        with pytest.raises(DataError, match=r"train_000001\.bin: was changed, got sha256"):
            open_dataset(data.folder)


def test_a_folder_that_cannot_be_written_to_is_read_each_time(prepared, monkeypatch, caplog):
    data, read = prepared

    def refuse(path, content):
        raise DataError(f"{path}: cannot be written")

    monkeypatch.setattr(dataset, "write_atomically", refuse)
    data.train.paths[0].touch()
    assert open_dataset(data.folder) == open_dataset(data.folder) == data
    assert read == [data.train.paths[0].name] * 2 and "every start will read" in caplog.text


def test_a_manifest_states_files_and_records(prepared):
    data, _ = prepared
    shards = json.loads((data.folder / MANIFEST).read_text())["shards"]
    state = data.train.paths[0].stat()
    assert shards[data.train.paths[0].name][0] == [state.st_size, state.st_mtime_ns, state.st_ctime_ns]
    assert shards.keys() == {path.name for path in data.train.paths + data.validation.paths}


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", "3", '{"about": {}}', '{"about": {"a": 2}, "shards": {}, "sha256": "STATED"}']
)
def test_a_change_of_a_manifest_is_seen(tmp_path: Path, damage):
    whole = ShardIndex(tmp_path)
    assert whole.problem and not whole.about
    whole.about = {"a": 1}
    whole.write()
    again = ShardIndex(tmp_path)
    assert again.about == {"a": 1} and again.problem is None
    stated = sha256_of({"about": {"a": 1}, "shards": {}})
    (tmp_path / MANIFEST).write_text(damage.replace("STATED", stated))
    changed = ShardIndex(tmp_path)
    assert changed.problem and not changed.about
