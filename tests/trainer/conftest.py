"""Runs as small as they come, beside each other, and what is left of them. A run is named as its folder in tmp_path."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ramen.trainer import checkpoint

CLOCKS = ("seconds", "tokens_per_second", "peak_memory")


@pytest.fixture
def train(train_small: Callable[..., dict[str, Any]], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """train(name, *overrides): a small run of eight steps; its summary."""
    return lambda name, *overrides: train_small(
        tmp_path / name, "trainer.record_every_steps=2", "trainer.steps=8", *overrides
    )


@pytest.fixture
def weights(tmp_path: Path) -> Callable[[str], dict[str, Tensor]]:
    """weights(name): those of a run's newest checkpoint."""
    return lambda name: load_file(checkpoint.latest(tmp_path / name) / checkpoint.WEIGHTS)


@pytest.fixture
def records(tmp_path: Path) -> Callable[[str], list[dict[str, Any]]]:
    """records(name): a run's records, without what clocks have measured."""

    def records(name: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        return [{key: value for key, value in line.items() if key not in CLOCKS} for line in lines]

    return records


@pytest.fixture
def assert_bitwise(weights: Any, records: Any) -> Callable[[str, str], None]:
    """assert_bitwise(name, other): two runs have the same records, and the same weights bit for bit."""

    def assert_bitwise(name: str, other: str) -> None:
        assert records(name) == records(other)
        torch.testing.assert_close(weights(name), weights(other), rtol=0, atol=0)

    return assert_bitwise
