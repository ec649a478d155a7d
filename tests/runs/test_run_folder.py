"""What a run leaves behind, whatever its end."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ramen.errors import DataError
from ramen.runs.folder import RunFolder
from ramen.runs.schema import Part, Summary

Train = Callable[..., dict[str, Any]]
PROMISED = (
    "status", "final_val_loss", "best_val_loss", "steps", "tokens", "train_seconds", "tokens_per_second", "parameters", "seed",
    "choices", "config_hash", "final_val_bits_per_byte", "data_hash", "peak_memory", "flops_per_token", "error",
)  # fmt: skip


def test_the_folder_tells_everything(train: Train, tmp_path: Path) -> None:
    summary = train("run")
    folder = tmp_path / "run"
    stored = json.loads((folder / "summary.json").read_text())
    assert stored["status"] == "finished"
    assert set(PROMISED) <= set(stored)
    assert stored["final_val_loss"] == summary["final_val_loss"] >= stored["best_val_loss"]
    assert yaml.safe_load((folder / "config.yaml").read_text())["model"]["dim"] == 16
    environment = json.loads((folder / "environment.json").read_text())
    (part,) = environment["parts"]
    assert set(part) <= set(Part.model_fields) and set(stored) <= set(Summary.model_fields)
    assert {"git_commit", "versions", "device", "data_hash", "precision", "code_hash", "config_hash"} <= set(part)
    assert part["versions"]["torch"]


def test_a_failure_is_recorded_with_its_reason(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ramen.training.loop import Trainer

    def broken(self: Trainer) -> None:
        raise RuntimeError("planted")

    monkeypatch.setattr(Trainer, "_step", broken)
    with pytest.raises(RuntimeError, match="planted"):
        train("run")
    stored = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (stored["status"], stored["error"]) == ("failed", "RuntimeError: planted")


def test_a_corrupt_shard_is_a_clear_error(train: Train, data_folder: Path) -> None:
    train("run")
    shard = next(data_folder.glob("shakespeare_byte*/train_*.bin"))
    content = shard.read_bytes()
    try:
        shard.write_bytes(content[:5000])
        with pytest.raises(DataError, match=shard.name):
            train("again")
    finally:
        shard.write_bytes(content)


def test_a_record_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.begin({}, {}, None)
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(DataError, match=r"metrics\.jsonl"):
        folder.record({"step": 1})


def test_nan_is_null_in_the_records(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.begin({}, {}, None)
    folder.record({"step": 1, "train_loss": float("nan")})
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 1, "train_loss": None}


@pytest.mark.parametrize("tail", [b'{"st', b"\x00\x00", b"\xff\xfe\x00", b"[1]\n3\n", b"[" * 50_000])
def test_a_resumed_run_drops_the_records_after_its_checkpoint_and_a_damaged_line(tmp_path: Path, tail: bytes) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n{"step": 2}\n{"step": 3}\n' + tail)
    RunFolder(tmp_path).begin({}, {}, resumed_step=2)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n{"step": 2}\n'
