"""Runs as small as they come, beside each other."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def train(train_small: Callable[..., dict[str, Any]], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """train(name, *overrides): a small run of eight steps in tmp_path/name; its summary."""
    return lambda name, *overrides: train_small(
        tmp_path / name, "trainer.record_every_steps=2", "trainer.steps=8", *overrides
    )
