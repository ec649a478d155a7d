"""Learning is real: a short run on real text ends far below what a bigram model of the same tokens can reach."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ramen.build.run import Command, run
from ramen.data.dataset import open_dataset
from ramen.data.shard import open_shard

QUICK = (
    "data.tokenizer=byte", "data.validation_tokens=20000", "model.layers=2", "model.dim=64", "model.heads=2", "device=cpu",
    "precision=fp32", "data.sequence_length=128", "optimizer.lr=0.05", "trainer.steps=250", "trainer.batch_tokens=2048",
    "trainer.micro_batch_tokens=2048",
)  # fmt: skip


def tokens(paths: tuple[Path, ...]) -> NDArray[np.int64]:
    return np.concatenate([open_shard(path) for path in paths]).astype(np.int64)


def bigram_loss(train: NDArray[np.int64], validation: NDArray[np.int64], vocabulary: int) -> float:
    """Nats a token of the best bigram model smoothed towards unigrams (the weight chosen on the validation text itself)."""
    pairs = np.zeros((vocabulary, vocabulary))
    np.add.at(pairs, (train[:-1], train[1:]), 1)
    unigram = (np.bincount(train, minlength=vocabulary) + 1) / (len(train) + vocabulary)
    seen, following = validation[:-1], validation[1:]
    return min(
        -np.log((pairs[seen, following] + weight * unigram[following]) / (pairs[seen].sum(1) + weight)).mean()
        for weight in (1, 3, 10, 30, 100)
    )


def test_a_short_run_beats_a_bigram_model_of_the_same_tokens(
    compose: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    config = compose(*QUICK)
    config["data"]["folder"] = str(tmp_path / "data")
    summary = run(Command(config, tmp_path / "run", {}, [], None))
    dataset = open_dataset(next((tmp_path / "data").iterdir()))
    floor = bigram_loss(tokens(dataset.train.paths), tokens(dataset.validation.paths), dataset.tokenizer.vocabulary)
    print(f"validation loss {summary['final_val_loss']:.3f}, bigram floor {floor:.3f}")
    assert summary["final_val_loss"] < floor - 0.3
