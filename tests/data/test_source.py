from pathlib import Path

import pytest
import yaml

from ramen.config.registry import build
from ramen.data.batches import validation_rows
from ramen.data.source import Source

CONF = Path(__file__).resolve().parents[2] / "conf" / "data"


DEMANDED = {"text": {"files": "a.txt"}, "hub": {"path": "a/b"}, "pretokenized": {"repo": "a/b", "prefix": "c"}}


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_yaml_builds(path):
    node = yaml.safe_load(path.read_text())
    source = build(node | DEMANDED.get(path.stem, {}))
    assert isinstance(source, Source)
    assert source.vocabulary == (2048 if path.stem in ("shakespeare", "text") else 50257)


@pytest.mark.parametrize(
    ("option", "repo", "last"),
    [
        ("fineweb10b", "kjj0/fineweb10B-gpt2", "fineweb_train_000103.bin"),
        ("fineweb100b", "kjj0/fineweb100B-gpt2", "fineweb_train_001030.bin"),
        ("finewebedu10b", "kjj0/finewebedu10B-gpt2", "finewebedu_train_000099.bin"),
    ],
)
def test_the_published_shards(option, repo, last):
    node = yaml.safe_load((CONF / f"{option}.yaml").read_text())
    source = build(node | {"shards": node["available"]})
    assert (source.repo, source.train[-1]) == (repo, last) and source.validation_tokens == 10_485_760
    assert source.validation == last.partition("_")[0] + "_val_000000.bin"


def test_every_yaml_key_is_commented():
    for path in CONF.glob("*.yaml"):
        lines = path.read_text().splitlines()
        assert lines[0].startswith("# ")
        assert all("#" in line for line in lines if not line.startswith("_target_"))


@pytest.mark.parametrize(("tokenizer", "vocabulary"), [("byte", 257), ("bpe", 280), ("gpt2", 50257)])
def test_the_vocabulary_is_known_before_and_true_after(text_source, jsonl, tokenizer, vocabulary):
    source = text_source(str(jsonl), tokenizer=tokenizer)
    assert source.vocabulary == vocabulary == source.dataset(progress=False).tokenizer.vocabulary


def test_every_token_of_the_validation_split_is_a_target(text_source, jsonl):
    data = text_source(str(jsonl)).dataset(progress=False)
    rows = validation_rows(
        data.validation, bos=data.tokenizer.bos, sequence_length=16, long_documents="split", tokens=None
    )
    assert rows.counted == data.validation_tokens
    assert data.bytes_per_token == data.validation_bytes / data.validation_tokens


def test_a_folder_may_begin_at_home(text_source, jsonl, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    source = text_source(str(jsonl), folder="~/data")
    assert source.dataset(progress=False).folder.parent == tmp_path / "home" / "data"
    assert text_source(str(jsonl), folder="~nobody-by-this-name/data").folder == Path("~nobody-by-this-name/data")
