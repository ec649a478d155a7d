"""Micro-batches that fit: by the estimate, by trying, and with the same result whatever was found."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ramen import device as machine
from ramen.build.dry_run import USABLE, dry_run, peak_bytes
from ramen.errors import ConfigError
from ramen.nn.gpt import DataSpec

CPU = torch.device("cpu")
AUTO = ("model.layers=1", "model.dim=16", "model.heads=2", "trainer.micro_batch_tokens=auto")


def test_a_batch_is_halved_until_its_estimate_is_free(compose: Callable[..., dict[str, Any]]) -> None:
    config, data = compose(*AUTO, "trainer.batch_tokens=3072"), DataSpec(37, 0, 256)

    def peak(rows: int) -> int:
        settled = {**config, "trainer": config["trainer"] | {"micro_batch_tokens": rows * 256}}
        return peak_bytes(dry_run(settled, data, torch.float32).costs["memory"], "cpu", False)

    for rows in (12, 6, 3, 2, 1):
        result = dry_run(config, data, torch.float32, free_bytes=peak(rows) / USABLE["cpu"] + 1)
        assert result.trainer.micro_rows == rows
        assert peak_bytes(result.costs["memory"], "cpu", False) == peak(rows)


def test_a_row_that_does_not_fit_is_told(compose: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(ConfigError, match=r"trainer\.micro_batch_tokens: .* got 20 MB free and 5\d MB needed"):
        dry_run(compose(*AUTO), DataSpec(37, 0, 256), torch.float32, free_bytes=2e7)


def test_trying_halves_what_exhausts_the_device(make_trainer: Callable[..., Any]) -> None:
    tried = []

    def exhaust(model: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        tried.append(len(arguments[0]))
        if tried[-1] > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")

    trainer, most = make_trainer("run"), 3
    row = trainer.config.sequence_length
    trainer.config = trainer.config.with_micro_rows(20)
    trainer.model.register_forward_pre_hook(exhaust)
    assert trainer.fit(reserved=8) == 3 * row == trainer.config.micro_batch_tokens
    assert tried == [20, 10, 5, 3] and trainer.gradients.micro_rows == 3
    most = 0
    with pytest.raises(ConfigError, match="no room for a single row, got CUDA out of memory"):
        trainer.fit(reserved=8)
    trainer.model.register_forward_pre_hook(lambda model, arguments: 1 / 0, prepend=True)
    with pytest.raises(ZeroDivisionError):
        trainer.fit(reserved=8)


def test_free_memory_is_some_of_the_machine() -> None:
    assert 10**7 < machine.free_memory(CPU) < 10**14


def test_auto_is_settled_recorded_and_changes_no_result(
    train: Callable[..., dict[str, Any]], weights: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is free: the schedule's batches stay as they are, in micro-batches that need not divide them."""
    more = ("schedule@batch_schedule=stepped", "batch_schedule.values=[1.0,1.25,2.5,3.75]", "trainer.steps=4")
    free = 10**11
    monkeypatch.setattr(machine, "free_memory", lambda device: free)
    for name, rows in (("much", 15), ("little", 8)):
        summary = train(name, *more, "trainer.micro_batch_tokens=auto")
        assert summary["micro_batch_tokens"] == rows * 64
        assert json.loads((tmp_path / name / "summary.json").read_text())["micro_batch_tokens"] == rows * 64
        assert summary["tokens"] == 64 * (4 + 5 + 10 + 15)
        free = int(summary["memory_peak"] / 0.8) - 1000  # a little less than that takes
    torch.testing.assert_close(weights("little"), weights("much"), rtol=2e-3, atol=2e-4)


def test_recomputed_activations_give_the_same_run_bit_for_bit(
    train: Callable[..., dict[str, Any]], assert_bitwise: Any
) -> None:
    more = ("trainer.steps=3", "precision=bf16", "stream=modded", "mlp=nff", "trainer.micro_batch_tokens=128")
    train("kept", *more), train("again", *more, "trainer.activation_checkpointing=true")
    assert_bitwise("kept", "again")


@pytest.mark.parametrize("free", [10**7, 10**11])
def test_a_run_that_a_system_may_kill_for_its_memory_says_so_first(
    train_small: Callable[..., dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    free: int,
) -> None:
    monkeypatch.setattr(machine, "free_memory", lambda device: free)
    assert train_small(tmp_path / "run")["status"] == "finished"
    assert ("the system may kill this run" in caplog.text) == (free == 10**7)
