"""Batches on their way to the device: what travels with the rows."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ramen.data.batches import Batches
from ramen.training.device_loader import DeviceLoader


@pytest.mark.parametrize("depth", [0, 2])
def test_a_batch_knows_its_targets_and_documents(write_shard: Callable[..., None], tmp_path: Path, depth: int) -> None:
    write_shard(tmp_path / "a.bin", [9, 5, 6, 9, 7, 9, 8, 1, 1, 1, 1, 1, 1, 9, 9, 4, 3, 9, 2, 2])
    batches = Batches(
        [tmp_path / "a.bin"], bos=9, sequence_length=5, seed=3, shuffle=True, long_documents="split"
    )  # fmt: skip
    feed = DeviceLoader(batches, torch.device("cpu"), depth)
    seen = [feed.take(rows) for rows in (1, 3, 3)]
    feed.close()
    for batch in seen:
        assert batch.documents == tuple((batch.tokens == 9).sum(dim=1).tolist())
        assert batch.counted == (batch.targets != -100).sum()
    assert len({documents for batch in seen for documents in batch.documents or ()}) > 1
