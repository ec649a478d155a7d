"""Rows that are windows of the tokens as they lie in the shards."""

import json

import numpy as np
import pytest
import torch

from ramen.data.batches import IGNORED
from ramen.data.pretokenized import Pretokenized
from ramen.errors import DataError

BOS = 99
LENGTH = 4
SETTINGS = {
    "sequence_length": LENGTH, "long_documents": "split", "validation": "spread", "validation_tokens": None,
    "folder": "unused", "repo": "a/b", "prefix": "c", "available": None, "shards": 1, "downloads": 1,
}  # fmt: skip


def settings(batching, **changed):
    return Pretokenized(**{**SETTINGS, "batching": batching, **changed})


def batches(paths, batching, seed=0, **changed):
    return settings(batching, **changed).batches(paths, BOS, seed)


@pytest.fixture
def paths(write):
    """A shard of 50 tokens and one of 30, with ends of documents in them."""
    first, second = np.arange(50), np.arange(50, 80)
    first[[0, 17, 20]] = second[3] = BOS
    return write(first, second)


def by_the_source(shards, size, rows):
    """modded-nanogpt's rule: the next `size` tokens, or those of the next shard if fewer than two more are left."""
    taken, shard, at = [], 0, 0
    while len(taken) < rows:
        if at + size + 1 >= len(shards[shard]):
            shard, at = (shard + 1) % len(shards), 0
            continue
        window = shards[shard][at : at + size + 1]
        taken.append((window[:-1], window[1:]))
        at += size
    return taken


@pytest.mark.parametrize("rows", [1, 2, 3, 6])
def test_contiguous_takes_what_the_source_takes(paths, rows):
    shards = [np.fromfile(path, dtype="<u2")[512:].astype(int).tolist() for path in paths]
    loader = batches(paths, "contiguous")
    for tokens, targets in by_the_source(shards, rows * LENGTH, 30):
        batch = loader.take(rows)
        assert batch.tokens.flatten().tolist() == tokens and batch.targets.flatten().tolist() == targets
        assert batch.counted == rows * LENGTH and batch.documents == (1,) * rows
    assert loader.epoch >= 1 and loader.tokens_dropped > 0


def test_a_batch_longer_than_any_shard_is_told(paths):
    with pytest.raises(DataError, match=r"data\.batching=contiguous: no shard is longer than a batch, got 80 tokens"):
        batches(paths, "contiguous").take(20)


def test_random_windows_are_of_one_shard_and_reach_every_place(paths):
    shards = [np.fromfile(path, dtype="<u2")[512:].astype(int).tolist() for path in paths]
    windows = {tuple(ids[at : at + LENGTH + 1]) for ids in shards for at in range(len(ids) - LENGTH)}
    batch = batches(paths, "random").take(3000)
    drawn = {(*row, labels[-1]) for row, labels in zip(batch.tokens.tolist(), batch.targets.tolist(), strict=True)}
    assert drawn == windows
    assert torch.equal(batch.tokens[:, 1:], batch.targets[:, :-1]) and batch.counted == 3000 * LENGTH


def test_random_draws_are_those_of_every_machine_and_version(write):
    (path,) = write(np.arange(90))
    assert batches([path], "random", seed=1337).take(8).tokens[:, 0].tolist() == [71, 71, 14, 54, 14, 68, 64, 75]


def test_seeds_differ_and_grouping_changes_nothing(paths):
    whole, other = (batches(paths, "random", seed=seed).take(24).tokens for seed in (0, 1))
    parts = batches(paths, "random")
    assert torch.equal(whole, torch.cat([parts.take(rows).tokens for rows in (1, 2, 3, 0, 5, 13)]))
    assert not torch.equal(whole, other) and parts.epoch == 24 * LENGTH // 80


@pytest.mark.parametrize("batching", ["contiguous", "random"])
def test_resumes_exactly_from_every_position(paths, batching):
    going, states, expected = batches(paths, batching), [], []
    for _ in range(25):
        states.append(json.loads(json.dumps(going.state_dict())))
        expected.append(going.take(2))
    for done, state in enumerate(states):
        resumed = batches(paths, batching)
        resumed.take(1)
        resumed.load_state_dict(state)
        assert resumed.state_dict() == state
        for batch in expected[done:]:
            assert torch.equal(resumed.take(2).tokens, batch.tokens)


@pytest.mark.parametrize("batching", ["contiguous", "random", "documents"])
@pytest.mark.parametrize("other", ["contiguous", "random", "documents"])
def test_a_state_of_another_batching_is_refused(paths, batching, other):
    state = batches(paths, batching).state_dict()
    if batching == other:
        batches(paths, other).load_state_dict(state)
    else:
        with pytest.raises(DataError, match="data state: is incomplete, got no"):
            batches(paths, other).load_state_dict(state)


@pytest.mark.parametrize(
    ("batching", "wrong"), [("contiguous", {"shard": 2}), ("contiguous", {"token": 51}), ("random", {"row": -1})]
)
def test_an_impossible_position_is_refused(paths, batching, wrong):
    loader = batches(paths, batching)
    with pytest.raises(DataError, match="data position"):
        loader.load_state_dict(loader.state_dict() | wrong)


def test_validation_has_every_token_once_and_no_more(paths):
    shards = [np.fromfile(path, dtype="<u2")[512:].astype(int).tolist() for path in paths]
    batch = settings("contiguous").validation_batch(paths, BOS)
    counted = batch.targets[batch.targets != IGNORED].tolist()
    assert counted == [*shards[0][1:], *shards[1][1:]]
    assert batch.tokens[:2].flatten().tolist() == shards[0][:8]


def test_validation_may_be_the_first_tokens(paths):
    first = settings("contiguous", validation="first", validation_tokens=12).validation_batch(paths, BOS)
    shard = np.fromfile(paths[0], dtype="<u2")[512:].astype(int).tolist()
    assert first.tokens.flatten().tolist() == shard[:12] and first.targets.flatten().tolist() == shard[1:13]
    spread = settings("contiguous", validation_tokens=12).validation_batch(paths, BOS)
    assert spread.tokens.shape == first.tokens.shape and not torch.equal(spread.tokens, first.tokens)
    documents = settings("documents", validation="first", validation_tokens=12).validation_batch(paths, BOS)
    assert documents.tokens.flatten().tolist() == [BOS, 1, 2, 3, BOS, 4, 5, 6, BOS, 7, 8, 9]


@pytest.mark.parametrize("batching", ["documents", "contiguous", "random"])
@pytest.mark.parametrize("ids", [[BOS], [BOS, BOS, BOS], [5, 6, BOS]])
def test_a_validation_shard_without_text_is_told(write, batching, ids):
    if batching != "documents" and 6 in ids:
        return  # 6 is predicted from 5
    with pytest.raises(DataError, match=r"holds no text to predict, got \d rows|no shard has as many tokens"):
        settings(batching).validation_batch(write(ids), BOS)


def test_the_bos_of_the_first_document_is_left_out_of_a_corpus(text_source, tmp_path):
    text = "First Citizen:\nBefore we proceed any further, hear me speak.\n" * 40
    (tmp_path / "input.txt").write_text(text)
    source = text_source(
        str(tmp_path / "input.txt"), tokenizer="char", batching="contiguous", validation_fraction=0.1, holdout="tail"
    )
    data = source.dataset(progress=False)
    boundary = int(len(text) * 0.9)
    batch = source.batches(data.train.paths, data.tokenizer.bos, seed=0).take(4)
    assert data.tokenizer.decode(batch.tokens.flatten().tolist()) == text[: 4 * 16]
    held_out = source.validation_batch(data.validation.paths, data.tokenizer.bos)
    assert data.tokenizer.decode(held_out.tokens[:3].flatten().tolist()) == text[boundary : boundary + 48]
    assert held_out.counted == len(text) - boundary - 1
    assert data.tokenizer.vocabulary == len(set(text)) + 1 == source.vocabulary
