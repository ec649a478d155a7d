"""What the same command gives twice (the same bits) and what may change how a step is cut (the same data, nearly the same loss)."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ramen.trainer import checkpoint

Train = Callable[..., dict[str, Any]]
CLOCKS = ("seconds", "tokens_per_second", "peak_memory")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoint.latest(folder) / checkpoint.WEIGHTS)


def records(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in CLOCKS} for line in lines]


def position(folder: Path) -> dict[str, int]:
    """Where in the data the run is."""
    return checkpoint.load_state(checkpoint.latest(folder))["batches"]


def assert_bitwise(left: Path, right: Path) -> None:
    assert records(left) == records(right)
    assert position(left) == position(right)
    first, second = weights(left), weights(right)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def states() -> tuple[Any, ...]:
    """Of the generators that everyone shares."""
    return torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())


def test_nothing_random_outside_the_seed_is_used(train: Train, tmp_path: Path) -> None:
    """The generators of torch, numpy and Python are elsewhere, and stay where they are."""
    train("a")
    torch.manual_seed(12345)
    random.seed(12345)
    np.random.seed(12345)
    before = states()
    train("b")
    assert_bitwise(tmp_path / "a", tmp_path / "b")
    assert states() == before


@pytest.mark.parametrize("batches", [1, 5])
def test_batches_made_ahead_change_nothing(train: Train, tmp_path: Path, batches: int) -> None:
    """Nor does it matter how far ahead the run that resumes is, or the one that is resumed was."""
    schedule = "schedule@batch_schedule=stepped"
    train("none", schedule, "trainer.prefetch_batches=0")
    train("ahead", schedule, f"trainer.prefetch_batches={batches}", "trainer.stop_after_steps=3")
    train("ahead", schedule, f"trainer.prefetch_batches={6 - batches}", "resume=here")
    assert_bitwise(tmp_path / "none", tmp_path / "ahead")


@pytest.mark.parametrize("tokens", [64, 128])
def test_micro_batches_see_the_same_data_and_nearly_the_same_loss(train: Train, tmp_path: Path, tokens: int) -> None:
    train("whole", "optimizer=adamw", "trainer.record_every_steps=1")
    train("cut", "optimizer=adamw", "trainer.record_every_steps=1", f"trainer.micro_batch_tokens={tokens}")
    assert position(tmp_path / "whole") == position(tmp_path / "cut")
    for whole, cut in zip(records(tmp_path / "whole"), records(tmp_path / "cut"), strict=True):
        assert cut["train_loss"] == pytest.approx(whole["train_loss"], rel=1e-5)
        assert cut["grad_norm"] == pytest.approx(whole["grad_norm"], rel=1e-3)
        assert (cut["tokens"], cut["epoch"], cut["lr"]) == (whole["tokens"], whole["epoch"], whole["lr"])


def test_how_often_it_is_looked_at_changes_nothing(train: Train, tmp_path: Path) -> None:
    """Records, evaluations and checkpoints are made between steps."""
    train("seldom", "trainer.record_every_steps=8")
    often = ("trainer.record_every_steps=1", "trainer.evaluate_every_steps=1", "trainer.checkpoint_every_steps=1")
    train("often", *often, "trainer.keep_best=true")
    first, second = weights(tmp_path / "seldom"), weights(tmp_path / "often")
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert records(tmp_path / "seldom")[-1]["val_loss"] == records(tmp_path / "often")[-1]["val_loss"]
