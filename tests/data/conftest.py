import os
from pathlib import Path
from typing import Any

import pytest

from ramen.data.text import Text


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """No test can try the loss of power, from which fsync protects."""
    monkeypatch.setattr(os, "fsync", lambda file: None)


@pytest.fixture
def write(tmp_path, write_shard):
    """write([1, 2, 3], ...) -> paths of shards that hold these tokens."""

    def write_all(*shards) -> list[Path]:
        paths = [tmp_path / f"train_{number:06d}.bin" for number in range(1, 1 + len(shards))]
        for path, tokens in zip(paths, shards, strict=True):
            write_shard(path, tokens)
        return paths

    return write_all


@pytest.fixture
def corpus_settings(tmp_path) -> dict[str, Any]:
    """Settings of any corpus, prepared in tmp_path/prepared."""
    return {
        "text_column": "text",
        "folder": str(tmp_path / "prepared"),
        "tokenizer": "byte",
        "bpe_vocabulary": 280,
        "sequence_length": 16,
        "batching": "documents",
        "holdout": "hash",
        "validation_fraction": 0.3,
        "validation": "spread",
        "validation_tokens": None,
        "long_documents": "split",
        "shard_tokens": 1000,
        "workers": 1,
    }


@pytest.fixture
def text_source(corpus_settings):
    """text_source(files, key=value ...) -> a Text."""
    return lambda files, **changed: Text(files=files, **{"separator": None, **corpus_settings, **changed})


@pytest.fixture
def jsonl(tmp_path):
    """A file of 200 different documents."""
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(f'{{"text": "document number {n} says {"ramen " * (n % 7)}"}}\n' for n in range(200)))
    return path
