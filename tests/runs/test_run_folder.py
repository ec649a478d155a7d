"""The files that a run leaves behind, whatever its end."""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import ramen
from ramen.errors import DataError
from ramen.runs.folder import RunFolder
from ramen.runs.read import read_run
from ramen.runs.schema import Part, Summary

ROOT = Path(__file__).resolve().parents[2]
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


def test_a_continuation_that_cannot_begin_leaves_the_summary(tmp_path: Path) -> None:
    """As on a full disk."""
    folder = RunFolder(tmp_path)
    folder.begin({}, {}, None)
    folder.finish({"status": "finished", "steps": 4})
    (tmp_path / "config.yaml").unlink()
    (tmp_path / "config.yaml").mkdir()
    with pytest.raises(DataError, match=r"config\.yaml: cannot be written"):
        folder.begin({}, {}, resumed_step=4)
    assert folder.ending()["steps"] == 4
    assert not list(tmp_path.glob(".*"))


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


def test_an_extended_run_is_another_computation(train_small: Train, tmp_path: Path) -> None:
    """Its rate fell, and rose again: it is no fresh run of the larger budget."""
    fresh = train_small(tmp_path / "fresh", "trainer.steps=8")
    train_small(tmp_path / "run", "trainer.steps=4")
    extended = train_small(tmp_path / "run", "trainer.steps=8", "resume=here")
    assert [budget["steps"] for budget in extended["budgets"]] == [4, 8]
    assert [budget["steps"] for budget in fresh["budgets"]] == [8]
    assert extended["config_hash"] != fresh["config_hash"]
    doubts = read_run(tmp_path / "run").doubts
    assert list(doubts) == ["budget.steps changed"] and "from 4 to 8" in doubts["budget.steps changed"]
    assert read_run(tmp_path / "fresh").doubts == {}
    assert ramen.load(tmp_path / "run").step == 8  # its config is the one of its last part


def test_a_stopped_run_that_goes_on_is_the_same_computation(train_small: Train, tmp_path: Path) -> None:
    whole = train_small(tmp_path / "whole")
    train_small(tmp_path / "run", "trainer.stop_after_steps=2")
    stopped = RunFolder(tmp_path / "run").parts()
    again = train_small(tmp_path / "run", "resume=here")
    parts = RunFolder(tmp_path / "run").parts()
    assert again["config_hash"] == whole["config_hash"]
    assert [part["from_step"] for part in parts] == [0, 2]
    assert parts[0] == stopped[0]
    assert parts[0]["run_id"] == parts[1]["run_id"] == again["run_id"] != whole["run_id"]
    assert read_run(tmp_path / "run").doubts == {}


def test_a_folder_that_was_moved_keeps_its_run_id(train_small: Train, tmp_path: Path) -> None:
    before = train_small(tmp_path / "run", "trainer.stop_after_steps=2")
    (tmp_path / "run").rename(tmp_path / "moved")
    assert train_small(tmp_path / "moved", "resume=here")["run_id"] == before["run_id"]
    shutil.rmtree(tmp_path / "moved")
    assert train_small(tmp_path / "moved")["run_id"] != before["run_id"]


@pytest.mark.parametrize("left", [0, 1])
def test_records_that_are_gone_are_counted(
    train_small: Train, tmp_path: Path, caplog: pytest.LogCaptureFixture, left: int
) -> None:
    train_small(tmp_path, "trainer.stop_after_steps=3")
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_bytes(b"".join(metrics.read_bytes().splitlines(keepends=True)[:left]))
    for name in (".config.yaml.0123abcd", ".metrics.jsonl.deadbeef", ".mine.0123abcd"):
        (tmp_path / name).touch()
    train_small(tmp_path, "resume=here")
    assert f"{3 - left} of 3 records up to step 3 are gone" in caplog.text
    assert [path.name for path in tmp_path.glob(".*.????????")] == [".mine.0123abcd"]  # no litter of killed writes
    assert list(read_run(tmp_path).doubts) == ["lost records"]


def test_a_run_notes_the_files_it_computes_with(train_small: Train, tmp_path: Path) -> None:
    train_small(tmp_path / "a", "optimizer=muon")
    train_small(tmp_path / "b", "optimizer=muon", "seed=1", "trainer.steps=2")
    train_small(tmp_path / "c", "optimizer=bam")
    a, b, c = (RunFolder(tmp_path / name).environment() for name in "abc")
    assert a["code_hash"] == b["code_hash"] != c["code_hash"]
    assert {"ramen.optimizer.muon", "ramen.optimizer.base", "ramen.nn.gpt", "ramen.training.loop"} <= a["code"].keys()
    assert "ramen.optimizer.bam" in c["code"] and "ramen.optimizer.bam" not in a["code"]
    own = (ROOT / "ramen" / "nn" / "gpt.py").read_bytes()
    assert a["code"]["ramen.nn.gpt"] == hashlib.sha256(own).hexdigest()[:12]


def test_untracked_files_are_in_the_recorded_diff(tmp_path: Path) -> None:
    """A new method is two files that git does not know yet."""
    for name in ("ramen", "conf"):
        shutil.copytree(ROOT / name, tmp_path / name)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path)]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        subprocess.run([*git, *words], check=True)
    (tmp_path / "ramen" / "optimizer" / "mine.py").write_text("LR = 3\n")
    (tmp_path / "conf" / "optimizer" / "mine.yaml").write_text("lr: 3\n")
    (tmp_path / "ramen" / "errors.py").write_text((tmp_path / "ramen" / "errors.py").read_text() + "EDITED = 1\n")
    code = "from ramen.runs.code import describe_commit; print(describe_commit()['git_diff'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert {"+LR = 3", "+++ b/ramen/optimizer/mine.py", "+lr: 3", "+EDITED = 1"} <= set(done.stdout.splitlines())


@pytest.mark.parametrize("name", ["config.yaml", "environment.json"])
def test_a_continuation_of_a_changed_run_is_refused(train_small: Train, tmp_path: Path, name: str) -> None:
    train_small(tmp_path, "trainer.stop_after_steps=2")
    path = tmp_path / name
    path.write_text(path.read_text().replace("seed: 0", "seed: 1").replace("float32", "bfloat16"))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(DataError, match=rf"{name}: was changed after it was written"):
        train_small(tmp_path, "resume=here")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_flipped_bit_is_told_whatever_it_is_in(train_small: Train, tmp_path: Path) -> None:
    """Of what a report reads."""
    train_small(tmp_path)
    computed = RunFolder(tmp_path).written_hash()
    for name in ("config.yaml", "summary.json", "environment.json", "metrics.jsonl"):
        path = tmp_path / name
        whole = path.read_bytes()
        for at in range(0, len(whole), max(1, len(whole) // 40)):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            try:
                run = read_run(tmp_path)
            except DataError as error:
                assert name in str(error)
                continue
            harmless = (
                name == "config.yaml" and RunFolder(tmp_path).written_hash() == computed
            )  # the run's name, its folder of data
            assert harmless or name in str(run.doubts) + str(run.warnings), (name, whole[max(0, at - 30) : at + 30])
        path.write_bytes(whole)
