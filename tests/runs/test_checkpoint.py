"""Checkpoints: whole or not there, the last few kept, damaged and malicious ones refused."""

import hashlib
import json
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from ramen.errors import DataError
from ramen.runs import checkpoint


def test_what_is_saved_is_loaded_bitwise(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    path = checkpoint.save(tmp_path, 7, model, {"moment": torch.arange(3.0), "step": 7}, keep=1)
    other = nn.Linear(3, 2)
    checkpoint.load_weights(path, other)
    assert torch.equal(other.weight, model.weight)
    state = checkpoint.load_state(path)
    assert state["step"] == 7
    assert torch.equal(state["moment"], torch.arange(3.0))
    assert checkpoint.latest(tmp_path) == path


def test_only_the_last_ones_are_kept_and_the_newest_is_found(tmp_path: Path) -> None:
    for step in (5, 20, 100):
        checkpoint.save(tmp_path, step, nn.Linear(1, 1), {}, keep=2)
    assert [path.name for path in checkpoint.checkpoints(tmp_path)] == ["step_00000020", "step_00000100"]


def test_a_checkpoint_cut_short_is_not_one(tmp_path: Path) -> None:
    whole = checkpoint.save(tmp_path, 1, nn.Linear(1, 1), {}, keep=5)
    (tmp_path / "checkpoint" / ".partial_00000002_1").mkdir()
    (tmp_path / "checkpoint" / "step_00000003").mkdir()  # no meta.json: never renamed into place by save
    assert checkpoint.latest(tmp_path) == whole


def test_a_failing_write_leaves_the_old_checkpoint_and_no_debris(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = checkpoint.save(tmp_path, 1, nn.Linear(1, 1), {}, keep=1)

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(DataError, match="No space left"):
        checkpoint.save(tmp_path, 2, nn.Linear(1, 1), {}, keep=1)
    assert [path.name for path in (tmp_path / "checkpoint").iterdir()] == [whole.name]


def rewrite_meta(path: Path, **values: object) -> None:
    """As an attacker would do, or another version of ramen: a meta.json that fits the files."""
    meta = json.loads((path / checkpoint.META).read_text())
    sums = {name: hashlib.sha256((path / name).read_bytes()).hexdigest() for name in meta["sha256"]}
    (path / checkpoint.META).write_text(json.dumps({**meta, "sha256": sums, **values}))


def test_a_pickle_that_would_run_code_is_refused_even_with_a_fitting_sum(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, 1, nn.Linear(1, 1), {}, keep=1)

    class Planted:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "ran",)  # type: ignore[return-value]

    for content in (pickle.dumps(Planted(), protocol=2), b""):
        if content:
            (path / checkpoint.STATE).write_bytes(content)
        else:  # the same inside torch's own archive
            torch.save({"optimizers": Planted()}, path / checkpoint.STATE)
        with pytest.raises(DataError, match="is damaged, its sha256"):
            checkpoint.load_state(path)
        rewrite_meta(path)
        with pytest.raises(DataError, match="cannot be read"):
            checkpoint.load_state(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", [checkpoint.WEIGHTS, checkpoint.STATE])
def test_a_flipped_bit_is_refused_and_an_older_whole_one_is_named(tmp_path: Path, name: str) -> None:
    older = checkpoint.save(tmp_path, 1, nn.Linear(2, 2), {"a": torch.ones(3)}, keep=3)
    path = checkpoint.save(tmp_path, 2, nn.Linear(2, 2), {"a": torch.ones(3)}, keep=3)
    whole = (path / name).read_bytes()
    load: Callable[[], object] = (
        (lambda: checkpoint.load_weights(path, nn.Linear(2, 2)))
        if name == checkpoint.WEIGHTS
        else lambda: checkpoint.load_state(path)
    )
    for at in range(0, len(whole), max(1, len(whole) // 20)):
        flipped = bytearray(whole)
        flipped[at] ^= 1 << at % 8
        (path / name).write_bytes(flipped)
        with pytest.raises(DataError) as error:
            load()
        assert f"{path / name}: is damaged" in str(error.value)
        assert f"{older.name} is whole: to go on from there, remove {path}" in str(error.value)
    (older / name).write_bytes(b"")
    with pytest.raises(DataError, match="no older one is whole"):
        load()
    (path / name).write_bytes(whole)
    load()


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ('{"format": 3, "step": 1, "something": "new"}', "is of a newer ramen, got format 3; this one reads up to 2"),
        ('{"format": 1, "step": 1}', "is damaged, sha256: Field required"),
        ('{"format": "2"}', "is damaged, format"),
        ('{"format": 2, "step": 1}', "is damaged"),
        ('{"format": 2, "sha256": []}', "is damaged"),
        ("[]", "is damaged"),
        ("{}", "is damaged"),
        ("", "is damaged"),
        ('{"format": 2,', "is damaged"),
        ("[" * 100_000, "is damaged"),
    ],
)
def test_another_format_is_told(tmp_path: Path, meta: str, message: str) -> None:
    path = checkpoint.save(tmp_path, 1, nn.Linear(1, 1), {}, keep=1)
    (path / checkpoint.META).write_text(meta)
    with pytest.raises(DataError, match=message) as error:
        checkpoint.load_weights(path, nn.Linear(1, 1))
    assert checkpoint.META in str(error.value)


def test_the_best_one_is_kept_besides_the_last_ones(tmp_path: Path) -> None:
    for step, loss in ((1, 4.0), (2, 3.0), (3, None), (4, 3.5), (5, float("nan")), (6, None)):
        checkpoint.save(tmp_path, step, nn.Linear(1, 1), {}, keep=2, keep_best=True, val_loss=loss)
    assert [checkpoint.step_of(path) for path in checkpoint.checkpoints(tmp_path)] == [2, 5, 6]
    assert checkpoint.step_of(checkpoint.best(tmp_path)) == 2
    checkpoint.save(tmp_path, 7, nn.Linear(1, 1), {}, keep=2, keep_best=True, val_loss=2.0)
    assert [checkpoint.step_of(path) for path in checkpoint.checkpoints(tmp_path)] == [6, 7]


def killed_at(event: int, folder: Path, work: Callable[[], object]) -> bool:
    """True if a child process, doing the work, came as far as this file operation in the folder, and died there."""
    child = os.fork()
    if child == 0:
        left = event

        def hook(name: str, arguments: tuple[object, ...]) -> None:
            nonlocal left
            if name in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir") and str(folder) in str(arguments[0]):
                left -= 1
                if left < 0:
                    os._exit(9)

        sys.addaudithook(hook)
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def test_a_kill_at_any_file_operation_leaves_whole_checkpoints_only(tmp_path: Path) -> None:
    states = [nn.Linear(2, 2) for _ in range(3)]
    event, died, newest = 0, True, set()
    while died:
        folder = tmp_path / str(event)
        for step in (1, 2):
            checkpoint.save(folder, step, states[step - 1], {"step": step}, keep=2)
        died = killed_at(event, folder, lambda: checkpoint.save(folder, 3, states[2], {"step": 3}, keep=2))  # noqa: B023
        for path in checkpoint.checkpoints(folder):
            checkpoint.verify(path)
        last = checkpoint.latest(folder)
        newest.add(checkpoint.step_of(last))
        assert checkpoint.load_state(last)["step"] == checkpoint.step_of(last)
        model = nn.Linear(2, 2)
        checkpoint.load_weights(last, model)
        assert torch.equal(model.weight, states[checkpoint.step_of(last) - 1].weight)
        checkpoint.save(folder, 4, states[0], {}, keep=2)
        assert len(list((folder / "checkpoint").iterdir())) == 2  # no debris, whatever the kill left
        event += 1
    assert event > 10 and newest == {2, 3}


def test_without_an_evaluation_there_is_no_best(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 1, nn.Linear(1, 1), {}, keep=1, keep_best=True)
    with pytest.raises(DataError, match="no checkpoint with a validation loss"):
        checkpoint.best(tmp_path)


def test_what_a_killed_process_left_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / "checkpoint" / ".partial_00000002" / "deep").mkdir(parents=True)
    (tmp_path / "checkpoint" / "step_00000001").mkdir()  # of this step, and not whole
    path = checkpoint.save(tmp_path, 1, nn.Linear(1, 1), {}, keep=1)
    assert list((tmp_path / "checkpoint").iterdir()) == [path]
    checkpoint.verify(path)


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_every_file_has_the_mode_of_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        path = checkpoint.save(tmp_path, 1, nn.Linear(1, 1), {}, keep=1)
    finally:
        os.umask(before)
    assert {file.stat().st_mode & 0o777 for file in path.iterdir()} == {0o666 & ~umask}


def test_weights_of_another_model_are_refused_with_what_differs(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, 1, nn.Linear(2, 2), {}, keep=1)
    with pytest.raises(DataError, match="size mismatch for weight"):
        checkpoint.load_weights(path, nn.Linear(3, 2))


def test_a_folder_without_a_checkpoint_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no checkpoint"):
        checkpoint.latest(tmp_path)
    with pytest.raises(DataError, match="no such run folder"):
        checkpoint.latest(tmp_path / "nowhere")


def test_the_best_one_is_sought_beside_damaged_ones(tmp_path: Path) -> None:
    best = checkpoint.save(tmp_path, 1, nn.Linear(1, 1), {}, keep=9, val_loss=2.0)
    for step, meta in ((2, "{}"), (3, "[]"), (4, '{"format": 2, "step": 4, "sha256": {}}')):
        path = checkpoint.save(tmp_path, step, nn.Linear(1, 1), {}, keep=9, val_loss=1.0)
        (path / checkpoint.META).write_text(meta)
    assert checkpoint.best(tmp_path) == best
