"""The same command twice gives the same bits; a step cut otherwise the same data and nearly the same loss."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ramen.runs import checkpoint

Train = Callable[..., dict[str, Any]]


def position(folder: Path) -> dict[str, int]:
    """Where in the data the run is."""
    return checkpoint.load_state(checkpoint.latest(folder))["batches"]


def states() -> tuple[Any, ...]:
    """Of the generators that everyone shares."""
    return torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())


def test_nothing_random_outside_the_seed_is_used(train: Train, assert_bitwise: Any, tmp_path: Path) -> None:
    """The generators of torch, numpy and Python are elsewhere, and stay where they are."""
    train("a")
    torch.manual_seed(12345)
    random.seed(12345)
    np.random.seed(12345)
    before = states()
    train("b")
    assert_bitwise("a", "b")
    assert position(tmp_path / "a") == position(tmp_path / "b")
    assert states() == before


@pytest.mark.parametrize("batches", [1, 5])
def test_batches_made_ahead_change_nothing(train: Train, assert_bitwise: Any, tmp_path: Path, batches: int) -> None:
    """Nor does it matter how far ahead the run that resumes is, or the one that is resumed was."""
    schedule = "schedule@batch_schedule=stepped"
    train("none", schedule, "trainer.prefetch_batches=0")
    train("ahead", schedule, f"trainer.prefetch_batches={batches}", "trainer.stop_after_steps=3")
    train("ahead", schedule, f"trainer.prefetch_batches={6 - batches}", "resume=here")
    assert_bitwise("none", "ahead")
    assert position(tmp_path / "none") == position(tmp_path / "ahead")


@pytest.mark.parametrize("tokens", [64, 128])
def test_micro_batches_see_the_same_data_and_nearly_the_same_loss(
    train: Train, weights: Any, records: Any, tmp_path: Path, tokens: int
) -> None:
    train("whole", "optimizer=adamw", "trainer.record_every_steps=1")
    train("cut", "optimizer=adamw", "trainer.record_every_steps=1", f"trainer.micro_batch_tokens={tokens}")
    assert position(tmp_path / "whole") == position(tmp_path / "cut")
    torch.testing.assert_close(weights("cut"), weights("whole"), rtol=5e-3, atol=5e-4)
    for whole, cut in zip(records("whole"), records("cut"), strict=True):
        assert cut["train_loss"] == pytest.approx(whole["train_loss"], rel=1e-5)
        assert cut["grad_norm"] == pytest.approx(whole["grad_norm"], rel=1e-3)
        assert (cut["tokens"], cut["epoch"], cut["lr"]) == (whole["tokens"], whole["epoch"], whole["lr"])


def test_how_often_it_is_looked_at_changes_nothing(train: Train, weights: Any, records: Any) -> None:
    """Records, evaluations and checkpoints are made between steps."""
    train("seldom", "trainer.record_every_steps=8", "model.mtp_weights=[0.5]")
    often = (
        "model.mtp_weights=[0.5]",
        "trainer.record_every_steps=1",
        "trainer.evaluate_every_steps=1",
        "trainer.checkpoint_every_steps=1",
    )
    train("often", *often, "trainer.keep_best=true")
    torch.testing.assert_close(weights("seldom"), weights("often"), rtol=0, atol=0)
    assert records("seldom")[-1]["val_loss"] == records("often")[-1]["val_loss"]
