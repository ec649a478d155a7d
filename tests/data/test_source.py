from pathlib import Path

import pytest
import yaml

from ramen.config.registry import build
from ramen.data.source import Source

CONF = Path(__file__).resolve().parents[2] / "conf" / "data"


DEMANDED = {"text": {"files": "a.txt"}, "hub": {"path": "a/b"}, "pretokenized": {"repo": "a/b", "prefix": "c"}}


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_yaml_builds(path):
    node = yaml.safe_load(path.read_text())
    source = build(node | DEMANDED.get(path.stem, {}))
    assert isinstance(source, Source)
    assert source.vocabulary == {"shakespeare": 2048, "text": 2048, "python": 4096}.get(path.stem, 50257)


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
    assert (source.repo, source.names[-1]) == (repo, last) and source.validation_tokens == 10_485_760
    assert source.names[0] == last.partition("_")[0] + "_val_000000.bin"


def test_every_yaml_key_is_commented():
    for path in CONF.glob("*.yaml"):
        lines = path.read_text().splitlines()
        assert lines[0].startswith("# ")
        assert all("#" in line for line in lines if not line.startswith("_target_"))


@pytest.mark.parametrize(("tokenizer", "vocabulary"), [("byte", 257), ("bpe", 280), ("gpt2", 50257), ("char", 25)])
def test_the_vocabulary_is_known_before_and_true_after(text_source, jsonl, tokenizer, vocabulary):
    source = text_source(str(jsonl), tokenizer=tokenizer)
    assert source.vocabulary == vocabulary == source.dataset(progress=False).tokenizer.vocabulary


def test_every_token_of_the_validation_split_is_a_target(text_source, jsonl):
    source = text_source(str(jsonl))
    data = source.dataset(progress=False)
    batch = source.validation_batch(data.validation.paths, data.tokenizer.bos)
    assert batch.counted == data.validation.tokens
    assert data.tokenizer.bytes_per_target(batch.targets.numpy()) == data.validation.bytes / data.validation.tokens


def test_bytes_are_those_of_the_counted_targets(text_source, jsonl):
    source = text_source(str(jsonl), long_documents="crop", tokenizer="bpe", validation_tokens=100)
    data = source.dataset(progress=False)
    batch = source.validation_batch(data.validation.paths, data.tokenizer.bos)
    counted = batch.targets[batch.targets >= 0].tolist()
    size = sum(len(data.tokenizer.tokens[target]) for target in counted if target != data.tokenizer.bos)
    assert data.tokenizer.bytes_per_target(batch.targets.numpy()) == size / len(counted)
    assert size / len(counted) != data.validation.bytes / data.validation.tokens


def test_a_folder_may_begin_at_home(text_source, jsonl, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    source = text_source(str(jsonl), folder="~/data")
    assert source.dataset(progress=False).folder.parent == tmp_path / "home" / "data"
    assert text_source(str(jsonl), folder="~nobody-by-this-name/data").root == Path("~nobody-by-this-name/data")
