"""Batches on their way to the device: what travels with the rows; with a thread as without it: rows, states, errors."""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ramen.data.batches import Batch, Batches, DocumentBatches
from ramen.errors import DataError
from ramen.training.device_loader import DeviceLoader

CPU = torch.device("cpu")

SIZES = (3, 3, 1, 5, 5, 5, 2, 3)  # a batch schedule of every kind: stages that grow, shrink and last


@pytest.fixture
def batches(tmp_path: Path, write_shard: Callable[..., None]) -> Callable[[], Batches]:
    """Batches over two shards that a few takes go round."""
    random = np.random.default_rng(0)
    for name in ("a", "b"):
        tokens = random.integers(0, 9, 60)
        tokens[0] = 9
        tokens[random.integers(0, 60, 8)] = 9
        write_shard(tmp_path / f"{name}.bin", tokens)
    paths = sorted(tmp_path.glob("*.bin"))
    return lambda: DocumentBatches(paths, bos=9, sequence_length=8, seed=1, shuffle=True, long_documents="split")


def equal(a: Batch, b: Batch) -> bool:
    return torch.equal(a.tokens, b.tokens) and torch.equal(a.targets, b.targets)


def test_a_batch_knows_its_targets_and_documents(batches: Callable[[], Batches]) -> None:
    loader = DeviceLoader(batches(), CPU, 2)
    seen = [loader.take(rows) for rows in (1, 3, 3)]
    loader.close()
    for batch in seen:
        assert batch.documents == tuple((batch.tokens == 9).sum(dim=1).tolist())
        assert batch.counted == (batch.targets != -100).sum()
    assert len({documents for batch in seen for documents in batch.documents or ()}) > 1


class Broken:
    """Rows that cannot be read from a batch on; counts those that can."""

    def __init__(self, good: Batches, at: int, error: BaseException):
        self.good, self.at, self.error = good, at, error
        self.state_dict, self.load_state_dict, self.epoch = good.state_dict, good.load_state_dict, 0
        self.taken = 0

    def take(self, rows: int) -> Batch:
        if self.taken >= self.at:
            raise self.error
        self.taken += 1
        return self.good.take(rows)


@pytest.mark.parametrize("depth", [0, 1, 2, 7])
def test_neither_depth_nor_stages_change_what_is_taken_or_told(batches: Callable[[], Batches], depth: int) -> None:
    plain, ahead = batches(), DeviceLoader(batches(), CPU, depth)
    for rows in SIZES:
        assert equal(ahead.take(rows), plain.take(rows))
        assert ahead.state_dict() == plain.state_dict()
        assert ahead.epoch == plain.epoch
    assert plain.epoch > 0, "the shards were not gone round"
    ahead.close()


@pytest.mark.parametrize("stop", range(len(SIZES)))
def test_a_resumption_takes_what_was_not_taken_whatever_was_made_ahead(
    batches: Callable[[], Batches], stop: int
) -> None:
    plain, before, after = batches(), DeviceLoader(batches(), CPU, 3), DeviceLoader(batches(), CPU, 2)
    after.take(1)  # somewhere else
    for rows in SIZES[:stop]:
        plain.take(rows), before.take(rows)
    after.load_state_dict(before.state_dict())
    for rows in SIZES[stop:]:
        assert equal(after.take(rows), plain.take(rows))
    before.close(), after.close()


def test_an_error_comes_with_its_own_words_to_the_take_that_meets_it_and_stays(batches: Callable[[], Batches]) -> None:
    ahead = DeviceLoader(Broken(batches(), 2, DataError("b.bin: is cut short, got 3 bytes")), CPU, 4)  # type: ignore[arg-type]
    ahead.take(2), ahead.take(2)
    for _ in range(2):
        with pytest.raises(DataError, match=r"b\.bin: is cut short, got 3 bytes"):
            ahead.take(2)
    ahead.close()
    assert alive() == 0


def test_the_thread_stays_ahead_by_no_more_than_the_depth(batches: Callable[[], Batches]) -> None:
    counted = Broken(batches(), 99, DataError("unused"))
    ahead = DeviceLoader(counted, CPU, 2)  # type: ignore[arg-type]
    ahead.take(1)
    for _ in range(1000):
        if counted.taken == 3:
            break
        threading.Event().wait(0.01)
    ahead.close()
    assert counted.taken == 3  # one taken, two ahead


def test_closing_ends_the_thread_and_taking_goes_on_behind_what_was_taken(batches: Callable[[], Batches]) -> None:
    plain, ahead = batches(), DeviceLoader(batches(), CPU, 2)
    for _ in range(3):
        assert equal(ahead.take(2), plain.take(2))
        ahead.close()
        assert alive() == 0
    ahead.close()


def alive() -> int:
    return sum(thread.name.startswith("batches") for thread in threading.enumerate())
