"""The folder that a run may have, and the one that `resume=auto` finds."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ramen import device as machine
from ramen.build.run import Command, run
from ramen.config.check import computed, config_hash, flatten
from ramen.errors import ConfigError, DataError
from ramen.runs import checkpoint
from ramen.runs.checkpoint import refuse_used, unfinished
from ramen.runs.folder import RunFolder
from ramen.runs.lock import exclusive


@pytest.fixture
def outputs(tmp_path: Path, trained: Path) -> Callable[..., Path]:
    """outputs(date, status): the run of `trained` again, as if it had ended so."""

    def outputs(date: str, ended: str | None = None) -> Path:
        folder = tmp_path / "name" / date / "0-run"
        shutil.copytree(trained, folder)
        summary = json.loads((folder / "summary.json").read_text())
        (folder / "summary.json").unlink()
        if ended:
            (folder / "summary.json").write_text(json.dumps({**summary, "status": ended}))
        return folder

    return outputs


@pytest.fixture
def config(trained: Path) -> dict[str, Any]:
    return yaml.safe_load((trained / "config.yaml").read_text())


def write_state(path: Path, state: Any) -> None:
    """In place of a checkpoint's own."""
    torch.save(state, path / checkpoint.STATE)
    meta = json.loads((path / checkpoint.META).read_text())
    meta["sha256"][checkpoint.STATE] = checkpoint._sha256(path / checkpoint.STATE)
    (path / checkpoint.META).write_text(json.dumps(meta))


def test_the_newest_that_has_not_ended_is_found(
    outputs: Callable[..., Path], config: dict[str, Any], tmp_path: Path
) -> None:
    base = tmp_path / "name"
    assert unfinished(base, config) is None
    killed = outputs("2026-01-01_00-00-00")
    outputs("2026-01-04_00-00-00", "finished")
    outputs("2026-01-05_00-00-00", "diverged")
    assert unfinished(base, config) == killed
    stopped = outputs("2026-01-02_00-00-00", "stopped")
    assert unfinished(base, config) == stopped
    failed = outputs("2026-01-03_00-00-00", "failed")
    assert unfinished(base, config) == failed
    with exclusive(failed):
        assert unfinished(base, config) == stopped  # someone is at work in the other one
    shutil.rmtree(stopped / "checkpoint")
    shutil.rmtree(failed / "checkpoint")
    assert unfinished(base, config) == killed


def test_another_config_is_not_continued(outputs: Callable[..., Path], config: dict[str, Any], tmp_path: Path) -> None:
    folder = outputs("2026-01-01_00-00-00")
    for change in ({"seed": 7}, {"optimizer": {**config["optimizer"], "lr": 0.5}}):
        assert unfinished(tmp_path / "name", {**config, **change}) is None
    for same in ({"threads": 2}, {"name": "other"}, {"resume": "auto"}):
        assert unfinished(tmp_path / "name", {**config, **same}) == folder


@pytest.mark.parametrize("content", ["", "[]", "{", "a: *b", "- 1", "\0", "{1: 2, a: 3}", "x" * 1000])
def test_foreign_folders_are_passed_over(
    outputs: Callable[..., Path], config: dict[str, Any], tmp_path: Path, content: str
) -> None:
    folder = outputs("2026-01-01_00-00-00")
    for name in ("config.yaml", "summary.json"):
        other = outputs(f"2026-01-02_{name}")
        (other / name).write_text(content)
        if name == "summary.json":
            shutil.rmtree(other)
    assert unfinished(tmp_path / "name", config) == folder


def test_a_folder_that_is_given_ends_again_when_it_has_ended(
    outputs: Callable[..., Path], config: dict[str, Any]
) -> None:
    assert unfinished(finished := outputs("a", "finished"), config, is_run=True) == finished
    assert unfinished(killed := outputs("b"), config, is_run=True) == killed
    assert unfinished(outputs("c", "diverged"), config, is_run=True) is None


def test_the_hash_in_a_summary_is_that_of_the_config_beside_it(trained: Path, config: dict[str, Any]) -> None:
    assert json.loads((trained / "summary.json").read_text())["config_hash"] == config_hash(config)


@pytest.mark.parametrize("ended", ["finished", "diverged", "stopped"])
def test_a_folder_with_a_result_is_refused_and_one_without_is_not(tmp_path: Path, ended: str) -> None:
    refuse_used(tmp_path)
    (tmp_path / "summary.json").write_text(json.dumps({"status": "failed"}))
    refuse_used(tmp_path)
    (tmp_path / "summary.json").write_text(json.dumps({"status": ended}))
    with pytest.raises(ConfigError, match=f"{tmp_path} holds a run already"):
        refuse_used(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"status": 3}', "[" * 50_000, '{"status": null}', "{}"])
def test_a_summary_that_is_none_has_no_ending(tmp_path: Path, content: str) -> None:
    (tmp_path / "summary.json").write_text(content)
    assert RunFolder(tmp_path).ending() == {}


@pytest.mark.parametrize("wrong", [{"error": 3}, {"overrides": ["a=1", 2]}, {"tokens": 1.5}, {"format": 99}], ids=str)
def test_a_summary_with_a_wrong_field_is_none(tmp_path: Path, wrong: dict[str, Any]) -> None:
    good = {"status": "stopped", "steps": 3, "final_val_loss": None, "tokens_per_second": 5, "more": "x"}
    RunFolder(tmp_path).finish(good)
    assert good.items() <= RunFolder(tmp_path).ending().items()
    (tmp_path / "summary.json").write_text(json.dumps(good | wrong))
    assert RunFolder(tmp_path).ending() == {}
    with pytest.raises(DataError, match=rf"summary\.json: .*{next(iter(wrong))}"):
        RunFolder(tmp_path).summary()


# What is computed may differ in this between the parts of a run; what is read of the data is told by its hash.
FREE = {"allow_targets", "compile", *(f"trainer.{key}" for key in (
    "_target_", "activation_checkpointing", "cuda_graphs", "default_steps", "evaluate_every_steps", "micro_batch_tokens",
    "most_skipped_steps", "nonfinite", "profile_steps", "record_every_steps", "seconds", "steps", "tokens",
))}  # fmt: skip


def test_every_key_of_a_runs_identity_is_compared(trained: Path, tmp_path: Path, config: dict[str, Any]) -> None:
    """One message a key: those that changed, that are new and that are gone."""
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    path = checkpoint.latest(folder)
    state = checkpoint.load_state(path)
    keys = sorted(state["identity"])
    assert {"data_hash", "precision", "data.sequence_length", "data.long_documents"} <= set(keys)
    free = {key for key in flatten(config) if computed(key) and key not in keys}
    assert {key for key in free if not key.startswith("data.")} == FREE
    state["identity"] = dict.fromkeys(keys[1:], "planted") | {"gone.key": 1}
    write_state(path, state)
    with pytest.raises(ConfigError) as told:
        run(Command({**config, "resume": str(folder)}, folder, {}, [], None))
    assert sorted(problem.partition(":")[0] for problem in told.value.problems) == sorted([*keys, "gone.key"])
    assert f"was 'planted' in {path}, got 0; a resumed run keeps it" in str(told.value)
    assert json.loads((folder / "summary.json").read_text())["status"] == "finished"  # as it was


@pytest.mark.parametrize("ended", [None, "failed"])
@pytest.mark.parametrize("resume", [True, False])
def test_a_refused_continuation_leaves_the_folder_of_a_killed_run_as_it_was(
    outputs: Callable[..., Path], config: dict[str, Any], ended: str | None, resume: bool
) -> None:
    """Its job in a sweep, above all: under another config's hash the sweep would refuse the folder."""
    folder = outputs("killed", ended)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    other = {**config, "optimizer": {**config["optimizer"], "lr": 0.5}, "resume": str(folder) if resume else None}
    with pytest.raises(ConfigError, match=r"lr: was|holds a run already"):
        run(Command(other, folder, {}, [], None))
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("state", [{}, {"identity": {}}, {"identity": 3}, []], ids=str)
def test_a_state_of_something_else_is_told(trained: Path, tmp_path: Path, config: dict[str, Any], state: Any) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    path = checkpoint.latest(folder)
    if isinstance(state, dict) and state.get("identity") == {}:
        state = {"identity": checkpoint.load_state(path)["identity"], "optimizers": {}}
    write_state(path, state)
    with pytest.raises(DataError, match="is not"):
        run(Command({**config, "resume": str(folder)}, folder, {}, [], None))


def test_a_continued_run_keeps_the_precision_that_was_found_for_it(
    train_small: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_bfloat16_pays", lambda kind: True)
    train_small(tmp_path, "precision=auto", "trainer.stop_after_steps=1")
    monkeypatch.setattr(machine, "_bfloat16_pays", lambda kind: False)
    assert train_small(tmp_path, "precision=auto", "resume=here")["status"] == "finished"
    assert RunFolder(tmp_path).environment()["precision"] == "bfloat16"
