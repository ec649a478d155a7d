import pytest

from ramen.data.prepare import Split, position
from ramen.errors import ConfigError


def sides(texts, holdout, fraction):
    split = Split(lambda: iter(texts), holdout, fraction)
    documents = list(split)
    train = [text for text, held_out in documents if not held_out]
    return train, [text for text, held_out in documents if held_out], split


def test_hash_depends_on_the_text_alone():
    texts = [f"text {number}" for number in range(300)] + ["", " \n"]
    train, validation, split = sides(texts, "hash", 0.3)
    assert validation == [text for text in texts[:300] if position(text) < 0.3] and len(train) + len(validation) == 300
    assert sides(texts[::-1], "hash", 0.3)[1] == validation[::-1] and split.documents == 300
    split.check()


@pytest.mark.parametrize("cut", [1, 7, 30])
def test_tail_holds_out_the_last_characters(cut):
    text = "abcdefghij" * 10
    texts = [text[at : at + cut] for at in range(0, 100, cut)]
    train, validation, split = sides(texts, "tail", 0.1)
    assert "".join(train) == text[:90] and "".join(validation) == text[90:]
    split.check()


def test_a_single_document_holds_out_its_tail_and_says_so(caplog):
    train, validation, split = sides(["", "abcdefghij" * 10], "hash", 0.05)
    assert (train, validation) == ([("abcdefghij" * 10)[:95]], ["fghij"])
    assert "there is one document; its last 5 % are held out" in caplog.text
    split.check()


@pytest.mark.parametrize("texts", [[], ["", "\n"], ["a"], ["ab", "ab"]])
def test_too_little_text_is_told(texts):
    with pytest.raises(ConfigError, match="data: the corpus has too little text, got"):
        sides(texts, "hash", 0.05)[2].check()
