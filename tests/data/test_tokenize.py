"""Several threads: the same bytes in the same order."""

import pytest

from ramen.data.prepare import CHUNK_CHARACTERS, chunks, tokenize_all
from ramen.data.tokenizer import BYTE_TOKENIZER


@pytest.fixture
def megabytes(tmp_path):
    """A corpus of a few chunks."""
    path = tmp_path / "big.jsonl"
    path.write_text("".join(f'{{"text": "{number} {"some words " * (number % 300)}"}}\n' for number in range(2400)))
    assert path.stat().st_size > 3 * CHUNK_CHARACTERS
    return path


@pytest.mark.parametrize("tokenizer", ["byte", "bpe"])
def test_the_bytes_are_the_same_for_any_number_of_workers(text_source, megabytes, tmp_path, tokenizer):
    datasets = {}
    for workers in (1, 2, 7):
        settings = {"folder": str(tmp_path / str(workers)), "shard_tokens": 300_000, "workers": workers}
        datasets[workers] = text_source(str(megabytes), tokenizer=tokenizer, **settings).dataset(progress=False)
    contents = [
        {path.name: path.read_bytes() for path in data.folder.iterdir() if path.name != "manifest.json"}
        for data in datasets.values()
    ]
    assert contents[0] == contents[1] == contents[2] and len(datasets[1].train.paths) > 1
    assert datasets[1].hash == datasets[2].hash == datasets[7].hash


def test_chunks_are_bounded_and_whole():
    third = CHUNK_CHARACTERS // 3
    documents = [(text, False) for text in ("a" * third, "", "b" * third, "c" * 3 * third, "d" * 4 * third, "e")]
    assert list(chunks(iter(documents))) == [documents[:4], documents[4:5], documents[5:]]


def test_each_document_opens_with_bos_and_keeps_its_side():
    tokenized = [
        (ids.tolist(), side) for ids, side in tokenize_all([("ab", True), ("c", False), ("", True)], BYTE_TOKENIZER, 1)
    ]
    assert tokenized == [([256, 97, 98], True), ([256, 99], False), ([256], True)]


def test_an_error_of_the_source_arrives_and_ends_the_threads():
    def broken():
        yield "x" * 3 * CHUNK_CHARACTERS, False
        yield "y" * 3 * CHUNK_CHARACTERS, False
        raise KeyError("gone")

    with pytest.raises(KeyError, match="gone"):
        list(tokenize_all(broken(), BYTE_TOKENIZER, 2))
