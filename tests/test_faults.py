"""What goes wrong at night: kills, signals, full and read-only disks, no memory, clocks set back, services that hang.

Real processes where the fault is one of processes; a run in this process where it is not.
"""

import ast
import json
import os
import pty
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ramen.errors import ConfigError, DataError, tolerate_broken_pipe
from ramen.runs import checkpoint
from ramen.runs.folder import RunFolder
from ramen.runs.lock import exclusive
from ramen.training.loop import Trainer

ROOT = Path(__file__).resolve().parent.parent
DISK = 8 << 20  # bytes; a run's folder holds the diff of the checkout


def door(*words: str, code: str | None = None) -> subprocess.Popen[str]:
    """A real `train.py`, or a program around its main."""
    program = ["-c", f"import sys; sys.argv[0] = 'train.py'\n{code}"] if code else [str(ROOT / "train.py")]
    command = [sys.executable, *program, *words]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def test_a_run_killed_at_random_moments_ends_bitwise_as_the_one_nobody_touched(data_folder: Path) -> None:
    """A short soak; scripts/soak.py --cycles 50 is the long one."""
    words = ["--cycles", "1", "--steps", "12", "--seconds", "0.1", "--data", str(data_folder)]
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "soak.py"), *words],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("1 kill")


def test_a_folder_has_one_process_and_its_lock_goes_with_it(tmp_path: Path, small: tuple[str, ...]) -> None:
    folder = tmp_path / "run"
    words = [*small, "trainer.steps=1000000", f"hydra.run.dir={folder}"]
    first = door(*words)
    try:
        while not all((folder / name).exists() for name in ("command.yaml", "metrics.jsonl")):
            assert first.poll() is None, first.communicate()[1]
            time.sleep(0.05)
        first.send_signal(signal.SIGSTOP)  # it holds its lock as well asleep, and leaves the processor to the second
        command = (folder / "command.yaml").read_bytes()
        second = door(*words, "seed=7")
        told = second.communicate(timeout=120)[1]
        assert (second.returncode, "Traceback" in told) == (2, False)
        assert f"{folder}: another process is at work in it" in told
        assert (folder / "command.yaml").read_bytes() == command  # refused before it wrote anything
        assert first.poll() is None
    finally:
        first.kill()
    first.communicate()
    with exclusive(folder, wait=False) as free:
        assert free


def test_a_second_ctrl_c_ends_at_once_with_the_shells_code(tmp_path: Path, small: tuple[str, ...]) -> None:
    code = """
import os, signal
from ramen.training.loop import Trainer
from ramen.cli.main import main
real = Trainer._step
def step(self):
    if self.progress.step == 3:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    return real(self)
Trainer._step = step
sys.exit(main(["train", *sys.argv[1:]]))
"""
    process = door(*small, "trainer.checkpoint_every_steps=2", f"hydra.run.dir={tmp_path}", code=code)
    told = process.communicate(timeout=120)[1]
    assert (process.returncode, "Traceback" in told) == (130, False), told
    assert RunFolder(tmp_path).ending()["status"] == "failed"
    assert "interrupted" in RunFolder(tmp_path).ending()["error"]
    assert checkpoint.latest(tmp_path).name == "step_00000002"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_while_a_checkpoint_is_written_waits_for_it(
    train_small: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    real = torch.save

    def save(*arguments: Any) -> None:
        monkeypatch.setattr(torch, "save", real)
        os.kill(os.getpid(), number)
        real(*arguments)

    monkeypatch.setattr(torch, "save", save)
    done = train_small(tmp_path, "trainer.checkpoint_every_steps=2")
    assert (done["status"], done["error"]) == ("stopped", number.name)
    assert capsys.readouterr().err.endswith(f"to continue: ramen train resume={tmp_path}\n")
    checkpoint.verify(checkpoint.latest(tmp_path))


def in_terminal(words: tuple[str, ...], folder: Path, ignored: bool) -> int:
    """Run train.py in a terminal of its own and close that once it trains; `ignored`: as `nohup` does. Returns its exit code."""
    child, terminal = pty.fork()
    if child == 0:
        if ignored:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        os.execv(sys.executable, [sys.executable, str(ROOT / "train.py"), *words])
    seen = b""
    while not (folder / "metrics.jsonl").exists() or not (folder / "metrics.jsonl").stat().st_size:
        if select.select([terminal], [], [], 0.05)[0]:
            seen += os.read(terminal, 1 << 16)  # an error when it ended before it trained
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_closed_terminal_stops_a_run_and_saves_it(tmp_path: Path, small: tuple[str, ...]) -> None:
    in_terminal((*small, "trainer.steps=1000000", f"hydra.run.dir={tmp_path}"), tmp_path, ignored=False)
    ending = RunFolder(tmp_path).ending()
    assert (ending["status"], ending["error"]) == ("stopped", "SIGHUP")
    assert checkpoint.step_of(checkpoint.latest(tmp_path)) == ending["steps"]


def test_a_run_without_its_terminal_goes_on(tmp_path: Path, small: tuple[str, ...]) -> None:
    in_terminal((*small, "trainer.steps=300", f"hydra.run.dir={tmp_path}"), tmp_path, ignored=True)
    assert RunFolder(tmp_path).ending()["status"] == "finished"
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 300


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of DISK bytes."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount a file system")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def pages(folder: Path) -> int:
    """What the files below a folder take in memory."""
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in folder.rglob("*") if path.is_file())


def test_a_full_disk_is_told_and_what_was_saved_is_whole(
    train_small: Callable[..., dict[str, Any]], small_disk: Path, tmp_path: Path
) -> None:
    """The first checkpoint fits, the second does not; with room again the run goes on and ends as if nothing had been."""
    folder, options = small_disk / "run", ("trainer.checkpoint_every_steps=2", "trainer.keep_checkpoints=3")
    train_small(tmp_path / "whole", *options)
    filler = small_disk / "filler"
    room = pages(tmp_path / "whole") - 1.5 * pages(checkpoint.latest(tmp_path / "whole"))  # for one and a half of three
    filler.write_bytes(bytes(DISK - int(room)))
    with pytest.raises(DataError, match=r"could not be written: .* bytes are free there"):
        train_small(folder, *options)
    kept = checkpoint.checkpoints(folder)
    assert len(kept) == 1
    checkpoint.verify(kept[-1])
    assert not list((folder / "checkpoint").glob(".partial*"))
    filler.unlink()
    assert (
        train_small(folder, *options, "resume=here")["final_val_loss"]
        == RunFolder(tmp_path / "whole").ending()["final_val_loss"]
    )


def test_a_disk_that_takes_no_byte_more_is_told_wherever_the_run_is(
    train_small: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """A limit on the size of files stands for a full disk where none can be mounted."""
    train_small(tmp_path / "room")  # prepares the data
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    for limit in (0, 300, 2000, 30_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        try:
            with tolerate_broken_pipe(), pytest.raises(DataError, match="written"):
                train_small(tmp_path / str(limit), "trainer.checkpoint_every_steps=1")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert checkpoint.checkpoints(tmp_path / str(limit)) == []


def test_a_read_only_folder_is_told(tmp_path: Path, small: tuple[str, ...]) -> None:
    place = tmp_path / "fixed"
    place.mkdir()
    place.chmod(0o555)
    mounted = (
        os.access(place, os.W_OK)
        and not subprocess.run(  # to root every folder is open
            ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(place)], capture_output=True
        ).returncode
    )
    try:
        if os.access(place, os.W_OK):
            pytest.skip("no way to a read-only folder")
        process = door(*small, f"hydra.run.dir={place / 'run'}")
        told = process.communicate(timeout=120)[1]
        assert (process.returncode, "Traceback" in told) == (2, False), told
        assert str(place) in told
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError(),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
        ),
    ],
    ids=["cuda", "python", "cpu"],
)
def test_out_of_memory_says_what_to_lower(
    train_small: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def step(self: Trainer) -> None:
        raise error

    monkeypatch.setattr(Trainer, "_step", step)
    with pytest.raises(
        ConfigError, match=r"trainer.micro_batch_tokens: memory is not enough, got 256 .*lower it"
    ) as told:
        train_small(tmp_path)
    assert told.value.__context__ is None  # it holds the frames, and they the model
    assert RunFolder(tmp_path).ending()["status"] == "failed"
    assert "lower it" in RunFolder(tmp_path).ending()["error"]


def test_memory_that_is_not_there_is_told(train_small: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    """A real allocation: a batch of 10^15 tokens."""
    with pytest.raises(ConfigError, match="memory is not enough"):
        train_small(tmp_path, "trainer.batch_tokens=1000000000000000")


def test_a_clock_that_is_set_back_changes_nothing(
    train_small: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter(range(2_000_000_000, 0, -3600))
    monkeypatch.setattr(time, "time", lambda: float(next(now)))
    done = train_small(tmp_path)
    assert done["status"] == "finished" and done["train_seconds"] > 0 and done["evaluation_seconds"] > 0
    seconds = [json.loads(line)["seconds"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert seconds == sorted(seconds)


def test_durations_are_measured_with_a_clock_that_cannot_be_set() -> None:
    """The wall clock is for comparing with a file's date (download.py) only."""
    wall: set[str] = set()
    for path in (ROOT / "ramen").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in (
                "time.time",
                "datetime.now",
                "datetime.utcnow",
            ):
                wall.add(path.name)
    assert wall <= {"download.py"}


def test_a_run_goes_where_the_name_of_a_folder_is_no_utf_8(
    train_small: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    assert train_small(tmp_path / os.fsdecode(b"\xff"))["status"] == "finished"


def test_a_used_folder_is_not_overwritten(
    train_small: Callable[..., dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_small(tmp_path, "trainer.stop_after_steps=2")
    assert capsys.readouterr().err.endswith(f"resume={tmp_path} trainer.stop_after_steps=null\n")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match="holds a run already, which would be overwritten"):
        train_small(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_checkpoint_of_the_last_step_without_a_summary_gives_the_same_summary(
    train_small: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """Killed between its last checkpoint and its summary."""
    whole = train_small(tmp_path)
    (tmp_path / "summary.json").unlink()
    again = train_small(tmp_path, "resume=here")
    clocks = ("compile_seconds", "peak_memory", "overrides", "resumed_step", "budgets")
    assert {k: v for k, v in again.items() if k not in clocks} == {k: v for k, v in whole.items() if k not in clocks}


def test_a_run_that_goes_on_has_no_summary_of_its_past(
    train_small: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a run that is killed after it was resumed with a larger budget would pass for finished."""
    train_small(tmp_path)
    seen = []
    monkeypatch.setattr(Trainer, "warm_up", lambda self: seen.append((tmp_path / "summary.json").exists()))
    train_small(tmp_path, "resume=here", "trainer.steps=8")
    assert seen == [False]
