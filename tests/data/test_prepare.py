import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ramen.data import prepare as preparation
from ramen.data.dataset import open_dataset
from ramen.data.prepare import Split, position
from ramen.data.shard import open_shard
from ramen.data.tokenizer import train_bpe
from ramen.errors import ConfigError, DataError
from ramen.runs.atomic import sha256_of

ROOT = Path(__file__).resolve().parents[2]


def texts_of(data, shards):
    """The documents of the shards of one split."""
    tokens = np.concatenate([open_shard(path) for path in shards])
    starts = np.flatnonzero(tokens == data.tokenizer.bos)
    return [data.tokenizer.decode(part) for part in np.split(tokens, starts[1:])]


@pytest.mark.parametrize("tokenizer", ["byte", "bpe"])
def test_every_document_is_in_exactly_one_split(text_source, jsonl, tokenizer):
    source = text_source(str(jsonl), tokenizer=tokenizer)
    data = source.dataset(progress=False)
    train, validation = texts_of(data, data.train.paths), texts_of(data, data.validation.paths)
    everything = list(source.documents())
    assert train == [text for text in everything if position(text) >= 0.3]
    assert validation == [text for text in everything if position(text) < 0.3]
    assert 30 < len(validation) < 90 and not set(train) & set(validation)
    assert (data.train.documents, data.validation.documents) == (len(train), len(validation))
    assert data.validation.bytes == sum(len(text.encode()) for text in validation)
    assert data.train.tokens == sum(len(open_shard(path)) for path in data.train.paths)
    assert data.tokenizer.vocabulary == source.vocabulary


def test_shards_close_as_they_fill_and_start_with_bos(text_source, jsonl):
    data = text_source(str(jsonl)).dataset(progress=False)
    assert [path.name for path in data.train.paths[:2]] == ["train_000001.bin", "train_000002.bin"]
    assert data.validation.paths[0].name == "validation_000000.bin"
    shards = [open_shard(path) for path in data.train.paths]
    assert len(shards) > 3 and all(shard[0] == data.tokenizer.bos for shard in shards)
    assert all(1000 <= len(shard) < 1100 for shard in shards[:-1])


def test_a_second_opening_prepares_nothing(text_source, jsonl, monkeypatch):
    source = text_source(str(jsonl))
    first = source.dataset(progress=False)
    monkeypatch.setattr(source, "documents", None)
    assert source.dataset(progress=False) == first
    assert (
        text_source(str(jsonl), sequence_length=99, long_documents="crop", bpe_vocabulary=999).dataset(progress=False)
        == first
    )


def test_equal_texts_have_equal_hashes_and_others_do_not(text_source, jsonl, tmp_path):
    first = text_source(str(jsonl)).dataset(progress=False)
    again = text_source(str(jsonl), folder=str(tmp_path / "again")).dataset(progress=False)
    other = text_source(str(jsonl), validation_fraction=0.4).dataset(progress=False)
    assert first.hash == again.hash != other.hash
    assert first.folder != other.folder and len(first.hash) == 16


def test_a_changed_file_is_prepared_anew(text_source, jsonl):
    before = text_source(str(jsonl)).dataset(progress=False)
    with jsonl.open("a") as file:
        file.write('{"text": "one more"}\n')
    after = text_source(str(jsonl)).dataset(progress=False)
    assert (
        after.train.documents + after.validation.documents == 1 + before.train.documents + before.validation.documents
    )


def test_an_error_leaves_nothing(text_source, jsonl, monkeypatch, tmp_path):
    with jsonl.open("a") as file:
        file.write("no json\n")
    with pytest.raises(DataError, match="line 201 is not json"):
        text_source(str(jsonl)).dataset(progress=False)
    assert not list((tmp_path / "prepared").iterdir())


def test_a_folder_that_cannot_be_made_is_told(text_source, jsonl, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot be prepared, got .*data\.folder needs to be writable"):
        text_source(str(jsonl), folder=str(tmp_path / "file")).dataset(progress=False)


def test_preparations_at_once_all_end_well(text_source, corpus_settings, jsonl, tmp_path):
    source = text_source(str(jsonl))
    settings = {**corpus_settings, "files": str(jsonl), "separator": None}
    code = (
        "from ramen.data.text import Text\n"
        f"data = Text(**{settings!r}).dataset(progress=False)\n"
        "print(data.hash, data.folder)"
    )
    command = [sys.executable, "-c", code]
    processes = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = {process.communicate(timeout=60)[0].strip() for process in processes}
    data = source.dataset(progress=False)
    assert outputs == {f"{data.hash} {data.folder}"}
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert list((tmp_path / "prepared").iterdir()) == [data.folder]


def _edit(name, change):
    """A damage: the json of this name in a folder, changed."""

    def damage(folder):
        content = json.loads((folder / name).read_text())
        change(content)
        (folder / name).write_text(json.dumps(content))

    return damage


def _manifest(change):
    """Changed by someone who seals it again."""

    def seal(content):
        del content["sha256"]
        change(content)
        content["sha256"] = sha256_of(content)

    return _edit("manifest.json", seal)


def _train(**changed):
    return _manifest(lambda m: m["shards"]["train_000001.bin"][1].update(changed))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), r"manifest\.json: is no manifest .* FileNotFoundError"),
        (lambda folder: (folder / "manifest.json").write_text("{"), r"manifest\.json: is no manifest"),
        (lambda folder: (folder / "manifest.json").write_text("[" * 50_000), r"manifest\.json: is no manifest"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), r"manifest\.json: is no manifest"),
        (_manifest(lambda m: m["about"].clear()), "no settings in"),
        (_manifest(lambda m: m.pop("shards")), "shards: Field required"),
        (
            _manifest(lambda m: [m["shards"].pop(name) for name in [*m["shards"]] if name[0] == "v"]),
            "no shard of a split",
        ),
        (_manifest(lambda m: m["shards"]["train_000001.bin"][1].pop("file")), "file: Field required"),
        (_manifest(lambda m: m["about"]["settings"].update(shard_tokens=5)), "other settings"),
        (_manifest(lambda m: m["about"].update(tokenizer_sha256="0")), r"tokenizer\.json: was changed"),
        (_train(tokens="many"), "tokens: Input should be a valid integer"),
        (_train(tokens=-1), "tokens: Input should be greater"),
        (_train(sha256=5), "sha256: Input should be a valid string"),
        (_train(file="train_000002.bin"), "another name in the record of train_000001.bin"),
        (_manifest(lambda m: m["shards"].update({"../a.bin": m["shards"].pop("train_000001.bin")})), "match pattern"),
        (_manifest(lambda m: m["shards"].update({"a\0b": m["shards"].pop("train_000001.bin")})), "match pattern"),
        (_edit("manifest.json", lambda m: m["shards"]["train_000001.bin"][1].update(bytes=5)), "it was changed"),
        (lambda folder: (folder / "tokenizer.json").write_text("[" * 50_000), r"tokenizer\.json: is no tokenizer"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "is no tokenizer"),
        (_edit("tokenizer.json", lambda t: t["model"]["vocab"].update(a=1)), "is no tokenizer, got ValueError"),
        (_edit("tokenizer.json", lambda t: t["model"]["vocab"].update(a=98, b=97)), "was changed, got sha256"),
        (_edit("tokenizer.json", lambda t: t.update(pre_tokenizer=None)), "is no tokenizer"),
        (
            lambda folder: (folder / "train_000001.bin").unlink(),
            r"train_000001\.bin: cannot be read, got FileNotFoundError",
        ),
        (lambda folder: (folder / "validation_000000.bin").write_bytes(b""), "is cut short"),
    ],
)
def test_a_damaged_folder_is_told(text_source, jsonl, damage, message):
    source = text_source(str(jsonl))
    damage(source.dataset(progress=False).folder)
    with pytest.raises(DataError, match=message):
        source.dataset(progress=False)


def test_a_folder_opens_without_its_source(text_source, jsonl):
    data = text_source(str(jsonl)).dataset(progress=False)
    assert open_dataset(data.folder) == data


def test_bpe_learns_from_the_training_split_only(text_source, jsonl, monkeypatch):
    seen = []

    def record(texts, vocabulary, progress):
        seen.extend(texts)
        return train_bpe(seen, vocabulary, progress)

    monkeypatch.setattr(preparation, "train_bpe", record)
    source = text_source(str(jsonl), tokenizer="bpe")
    source.dataset(progress=False)
    assert seen == [text for text in source.documents() if position(text) >= 0.3]


def check(texts, fraction):
    documents = Split(lambda: texts, "hash", fraction)
    list(documents)
    documents.check()


@pytest.mark.parametrize("texts", [["a", "a"], []])
def test_too_few_documents_are_told(texts):
    with pytest.raises(ConfigError, match=f"has too little text.* got {len(texts)} "):
        check(texts, 0.5)


@pytest.mark.parametrize("content", ["", "\n\n", '{"text": " "}\n'])
def test_too_few_documents_are_told_before_too_few_words(text_source, tmp_path, content):
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(ConfigError, match="has too little text"):
        text_source(str(tmp_path / "a.jsonl"), tokenizer="bpe").dataset(progress=False)


@pytest.mark.parametrize("fraction", [1e-6, 1 - 1e-6])
def test_an_empty_split_is_told_with_what_would_do(fraction):
    texts = [str(n) for n in range(20)]
    with pytest.raises(ConfigError, match=r"data\.validation_fraction: .* got") as caught:
        check(texts, fraction)
    low, high = str(caught.value).rpartition("allowed is ")[2].split(" to ")
    for allowed in (float(low), float(high)):
        check(texts, allowed)
        assert 0 < sum(position(text) < allowed for text in texts) < 20


def test_files_that_change_while_they_are_read_are_told(text_source, jsonl, monkeypatch, tmp_path):
    source = text_source(str(jsonl))
    settings = source.settings()
    states = iter([settings, settings, {**settings, "fingerprint": {}}])
    monkeypatch.setattr(source, "settings", lambda: next(states))
    with pytest.raises(DataError, match="changed while they were read"):
        source.dataset(progress=False)
    assert not list((tmp_path / "prepared").iterdir())


def test_a_document_may_be_longer_than_a_shard(text_source, tmp_path):
    texts = ["short one", "long " * 5000, "short two", "short three"]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    data = text_source(str(tmp_path / "a.jsonl"), shard_tokens=100, validation_fraction=0.6).dataset(progress=False)
    assert sorted(texts_of(data, data.train.paths) + texts_of(data, data.validation.paths)) == sorted(texts)
    assert max(len(open_shard(path)) for path in data.train.paths + data.validation.paths) >= 25001


def test_the_corpus_is_read_once(text_source, jsonl, monkeypatch):
    source = text_source(str(jsonl))
    documents, calls = source.documents, []
    monkeypatch.setattr(source, "documents", lambda: calls.append(1) or documents())
    source.dataset(progress=False)
    assert calls == [1]
