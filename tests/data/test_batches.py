import json
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from ramen.data import batches as module
from ramen.data.batches import IGNORED, DocumentBatches, document_starts
from ramen.data.text import Text
from ramen.errors import DataError

BOS = 99
TWO = ([BOS, 1, 2, 3, BOS, BOS, 4, 5, 6, 7, 8, 9, 10], [BOS, 11, 12, BOS, 13])


def batches(paths, **changed):
    options = {"bos": BOS, "sequence_length": 4, "seed": 0, "shuffle": True, "long_documents": "split", **changed}
    return DocumentBatches(paths, **options)


def validation(paths, **changed):
    options = {
        "sequence_length": 4, "batching": "documents", "long_documents": "split", "validation_tokens": None,
        "validation": "spread", "files": [], "separator": None, "text_column": "", "folder": "unused", "workers": 1,
        "tokenizer": "byte", "bpe_vocabulary": 258, "holdout": "hash", "validation_fraction": 0.5, "shard_tokens": 1,
    }  # fmt: skip
    return Text(**options | changed).validation_batch(paths, BOS)


def rows_of(batch):
    return [
        list(zip(row, labels, strict=True))
        for row, labels in zip(batch.tokens.tolist(), batch.targets.tolist(), strict=True)
    ]


def pack_slowly(texts, length, long_documents):
    """The oracle, token by token: rows of (token, target) from documents (tokens, ends truly); and what it dropped."""
    rows, dropped = [[]], 0
    queue = [[*pairwise(text), (text[-1], BOS if ends else IGNORED)] for text, ends in texts]
    while queue:
        text = queue.pop(0)
        while text and len(rows[-1]) < length:
            rows[-1].append(text.pop(0))
        if text:  # cut
            rows[-1][-1] = (rows[-1][-1][0], IGNORED)
            if long_documents == "crop":
                dropped += len(text)
            else:
                queue.insert(0, [(BOS, text[0][0]), *text])
        if len(rows[-1]) == length and queue:
            rows.append([])
    rows[-1] += [(BOS, IGNORED)] * (length - len(rows[-1]))
    return rows, dropped


def documents_of(shards):
    whole = all(tokens[0] == BOS for tokens in shards)
    pieces = []
    for tokens in shards:
        starts = [at for at, token in enumerate(tokens) if token == BOS]
        for start, end in zip(starts, [*starts[1:], None], strict=True):
            pieces.append((tokens[start:end], whole or end is not None))
    return pieces


shard_layouts = st.lists(
    st.lists(st.one_of(st.just(BOS), st.integers(0, 9)), max_size=40).map(lambda tokens: [*tokens, BOS]),
    min_size=1,
    max_size=3,
)


@given(shard_layouts, st.integers(2, 9), st.sampled_from(["split", "crop"]))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rows_equal_the_slow_way(write, shards, length, long_documents):
    paths = write(*shards)
    expected, dropped = pack_slowly(documents_of(shards), length, long_documents)
    assume(any(target not in (BOS, IGNORED) for row in expected for _, target in row))
    batch = validation(paths, sequence_length=length, long_documents=long_documents)
    assert rows_of(batch) == expected
    endless = batches(paths, sequence_length=length, shuffle=False, long_documents=long_documents)
    epochs, _ = pack_slowly(documents_of(shards) * 3, length, long_documents)
    taken = min(len(expected) + 1, len(epochs) - 1)
    assert rows_of(endless.take(taken)) == epochs[:taken]
    if taken == len(expected) + 1 and long_documents == "crop":
        assert endless.tokens_dropped >= dropped


@given(shard_layouts, st.integers(2, 9), st.integers(0, 5))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_shuffled_rows_are_always_sound(write, shards, length, seed):
    whole = all(tokens[0] == BOS for tokens in shards)
    pairs = {
        (a, b)
        for text, ends in documents_of(shards)
        for a, b in zip(text, [*text[1:], BOS if ends else None], strict=True)
    }
    starts = {(BOS, token) for tokens in shards for token in tokens}  # a BOS put in at a cut
    batch = batches(write(*shards), sequence_length=length, seed=seed).take(20)
    assert (batch.tokens[:, 0] == BOS).all()
    assert batch.counted == (batch.targets != IGNORED).sum()
    for row in rows_of(batch):
        for at, (token, target) in enumerate(row):
            if target == IGNORED:
                assert at == length - 1 or not whole
            else:
                assert (token, target) in pairs or (at == 0 and (token, target) in starts)
                assert at == length - 1 or target == row[at + 1][0]


def test_a_worked_example(write):
    batch = validation(write(TWO[0]))
    assert batch.tokens.tolist() == [[BOS, 1, 2, 3], [BOS, BOS, 4, 5], [BOS, 6, 7, 8], [BOS, 9, 10, BOS]]
    # 3 ends its document exactly at the cut: BOS is true. 5 and 8 are cut. The last document ends with its shard.
    assert batch.targets.tolist() == [[1, 2, 3, BOS], [BOS, 4, 5, IGNORED], [6, 7, 8, IGNORED], [9, 10, BOS, IGNORED]]
    cropped = validation(write(TWO[0]), long_documents="crop")
    assert cropped.targets.tolist() == [[1, 2, 3, BOS], [BOS, 4, 5, IGNORED]]


def test_a_rest_of_one_token(write):
    batch = validation(write([BOS, 1, 2, 3, 4]))
    assert batch.tokens.tolist() == [[BOS, 1, 2, 3], [BOS, 4, BOS, BOS]]
    assert batch.targets.tolist() == [[1, 2, 3, IGNORED], [4, BOS, IGNORED, IGNORED]]


def test_head_without_bos_is_skipped_and_ends_are_unknown(write):
    batch = validation(write([BOS, 1, 2], [3, 4, BOS, 5]), sequence_length=6)
    assert batch.tokens.tolist() == [[BOS, 1, 2, BOS, 5, BOS]]
    assert batch.targets.tolist() == [[1, 2, IGNORED, 5, IGNORED, IGNORED]]


def test_shard_without_bos_is_refused(write):
    with pytest.raises(DataError, match=r"train_000001\.bin: holds no document, got no BOS \(id 99\) among 3 tokens"):
        batches(write([1, 2, 3]))
    with pytest.raises(DataError, match=r"train_000002\.bin: holds no document"):
        batches(write([BOS, 1], [2, 3]), shuffle=False).take(5)
    with pytest.raises(DataError, match="empty list"):
        batches([])


@pytest.mark.parametrize("shuffle", [True, False])
def test_split_learns_every_token_once_an_epoch(write, shuffle):
    rng = np.random.default_rng(0)
    shards = [[token for n in rng.integers(1, 40, 30) for token in [BOS, *rng.integers(0, 90, n)]] for _ in range(3)]
    loader = batches(write(*shards), sequence_length=16, shuffle=shuffle)
    wanted = sum((Counter(tokens) for tokens in shards), Counter())
    seen: Counter = Counter()
    while loader.epoch == 0:
        targets = loader.take(1).targets
        seen.update(targets[targets != IGNORED].tolist())
    extra = seen - wanted  # the last row has begun the next epoch
    assert not wanted - seen and extra.total() < 16


def test_crop_counts_what_it_drops(write):
    loader = batches(
        write([BOS, *range(10), BOS, 1, BOS, *range(7)]), sequence_length=4, shuffle=False, long_documents="crop"
    )
    assert loader.take(2).tokens.tolist() == [[BOS, 0, 1, 2], [BOS, 1, BOS, 0]]
    assert loader.tokens_dropped == 7 + 6
    assert loader.epoch == 1


def test_split_drops_nothing(write):
    loader = batches(write(*TWO))
    loader.take(50)
    assert loader.tokens_dropped == 0


def test_equal_seeds_agree_and_others_differ(write):
    paths = write([token for n in range(30) for token in (BOS, n, n)])
    first, again, other = (batches(paths, seed=seed).take(30).tokens for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_the_order_is_that_of_every_machine_and_version(write):
    paths = write([token for n in range(8) for token in (BOS, n)])
    drawn = batches(paths, sequence_length=2, seed=1337).take(16).tokens[:, 1].tolist()
    assert drawn == [7, 5, 4, 1, 6, 2, 0, 3, 0, 4, 1, 2, 5, 7, 3, 6]


def test_every_epoch_has_every_document_in_another_order(write):
    shards = [[token for n in range(start, start + 10) for token in (BOS, n)] for start in (0, 10, 20)]
    loader = batches(write(*shards), sequence_length=2)
    epochs = [loader.take(30).tokens[:, 1].tolist() for _ in range(4)]
    assert all(sorted(epoch) == list(range(30)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert len({tuple(n // 10 for n in epoch[::10]) for epoch in epochs}) > 1  # shards are shuffled too
    assert len({tuple(n % 10 for n in epoch[at : at + 10]) for epoch in epochs for at in (0, 10, 20)}) == 12
    assert loader.epoch == 4


@pytest.mark.parametrize("long_documents", ["split", "crop"])
def test_grouping_changes_nothing(write, long_documents):
    paths = write(*TWO)
    whole = batches(paths, long_documents=long_documents).take(24)
    parts = batches(paths, long_documents=long_documents)
    taken = [parts.take(rows) for rows in (1, 2, 3, 0, 5, 13)]
    assert torch.equal(whole.tokens, torch.cat([part.tokens for part in taken]))
    assert torch.equal(whole.targets, torch.cat([part.targets for part in taken]))
    assert whole.counted == sum(part.counted for part in taken)


@pytest.mark.parametrize("long_documents", ["split", "crop"])
def test_resumes_exactly_from_every_position(write, long_documents):
    paths = write(*TWO)
    expected = batches(paths, long_documents=long_documents).take(40)
    going = batches(paths, long_documents=long_documents)
    for done in range(30):
        state = json.loads(json.dumps(going.state_dict()))
        assert all(type(value) is int for value in state.values())
        resumed = batches(paths, long_documents=long_documents)
        resumed.take(3)
        resumed.load_state_dict(state)
        assert resumed.state_dict() == state
        rest = resumed.take(40 - done)
        assert torch.equal(rest.tokens, expected.tokens[done:]) and torch.equal(rest.targets, expected.targets[done:])
        assert resumed.tokens_dropped - state["tokens_dropped"] >= 0
        going.take(1)


@pytest.mark.parametrize("wrong", [{"shard": 2}, {"epoch": -1}, {"document": 9}, {"offset": 50}, {"offset": -1}])
def test_an_impossible_position_is_refused(write, wrong):
    loader = batches(write(*TWO))
    with pytest.raises(DataError, match="data position"):
        loader.load_state_dict(loader.state_dict() | wrong)


def test_an_incomplete_state_is_refused(write):
    loader = batches(write(*TWO))
    state = loader.state_dict()
    del state["offset"]
    with pytest.raises(DataError, match="incomplete, got no offset"):
        loader.load_state_dict(state)


def test_validation_is_spread_over_the_split(write):
    paths = write([token for n in range(90) for token in (BOS, n)])
    chosen = {
        count: validation(paths, sequence_length=2, validation_tokens=count).tokens for count in (1, 12, 10**6, None)
    }
    assert chosen[12][:, 1].tolist() == [7, 22, 37, 52, 67, 82]
    assert chosen[1].shape == (1, 2)
    assert chosen[None][:, 1].tolist() == list(range(90))
    assert torch.equal(chosen[10**6], chosen[None])


def test_bos_is_found_across_the_blocks_of_the_scan(monkeypatch):
    monkeypatch.setattr(module, "SCAN_TOKENS", 7)
    tokens = np.random.default_rng(0).integers(0, 3, 100).astype(np.uint16)
    assert document_starts(tokens, 1).tolist() == [at for at, token in enumerate(tokens) if token == 1]
