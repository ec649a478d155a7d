"""A data set of the hub: here a folder that `datasets` reads in the same way."""

import json

import pytest
from huggingface_hub import HfApi, constants

from ramen.data.hub import Hub
from ramen.data.prepare import PausedError
from ramen.errors import DataError


@pytest.fixture
def rows(tmp_path):
    folder = tmp_path / "rows"
    folder.mkdir()
    for part in range(2):
        lines = [
            json.dumps({"body": f"text {part} {number} " + "word " * (number % 5), "id": number})
            for number in range(60)
        ]
        (folder / f"train-{part}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def source(corpus_settings, rows):
    asked = {"path": str(rows), "name": None, "split": "train", "revision": "main", "text_column": "body"}
    return lambda **changed: Hub(**corpus_settings | asked | changed)


def test_rows_are_documents(source):
    texts = list(source().documents())
    assert len(texts) == 120 and texts[0].startswith("text 0 0") and texts[-1].startswith("text 1 59")


def test_it_is_prepared_as_local_text_is(source, text_source, rows):
    streamed = source().dataset(progress=False)
    local = text_source(str(rows / "*.jsonl"), text_column="body").dataset(progress=False)
    assert streamed.hash == local.hash


def test_a_changed_folder_is_another_corpus(source, rows):
    before = source().prepared_folder()
    (rows / "train-0.jsonl").write_text('{"body": "new", "id": 1}\n')
    assert source().prepared_folder() != before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"text_column": "text"}, "row 0 of .*: has no text under data.text_column='text', got body, id"),
        ({"text_column": "id"}, "data.text_column='id' holds no text, got int"),
        ({"split": "nope"}, "has no data.name=None with data.split=nope, got ValueError: .*train"),
        ({"name": "nope"}, "has no data.name=nope with data.split=train, got ValueError: .*default"),
    ],
)
def test_what_is_not_there_is_told_and_leaves_nothing(source, tmp_path, settings, message):
    with pytest.raises(DataError, match=message):
        source(**settings).dataset(progress=False)
    assert not list((tmp_path / "prepared").iterdir())


def test_without_a_network_it_is_told(source, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        DataError, match=r"data set someone/texts .data\.revision=main. cannot be reached .*ConnectError"
    ):
        source(path="someone/texts").dataset(progress=False)
    assert not list((tmp_path / "prepared").iterdir())


def test_a_branch_is_pinned_to_its_commit(source, monkeypatch):
    class Found:
        sha = "1234"

    asked = []
    monkeypatch.setattr(HfApi, "dataset_info", lambda self, path, revision: asked.append(revision) or Found)
    corpus = source(path="someone/texts", revision="v2")
    assert corpus.origin() == corpus.origin() == "1234" and asked == ["v2"]
    assert corpus.fingerprint()["revision"] == "v2"
    assert corpus.prepared_folder() != source(path="someone/texts", revision="v3").prepared_folder()


def test_a_lost_connection_can_be_continued(source, monkeypatch):
    corpus = source()

    def lost():
        yield {"body": "one"}
        raise ConnectionError("gone\nfor good")

    monkeypatch.setattr(corpus, "_stream", lost)
    with pytest.raises(PausedError, match="got ConnectionError: gone; run again to continue where it stopped"):
        list(corpus.documents())
