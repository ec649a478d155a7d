"""A sweep's folder: what is done stays, what is not gets done once, by however many processes, killed or not."""

import json
import math
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from ramen.build.run import Command
from ramen.cli.command import parse
from ramen.cli.sweep import FOLDER_NAME_LENGTH, Sweep, folder_name, job_folder, objective, print_jobs
from ramen.config.check import config_hash
from ramen.errors import ConfigError, DataError
from ramen.report import compare
from ramen.runs.lock import exclusive, is_locked

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def job(compose: Callable[..., dict[str, Any]], small: tuple[str, ...], tmp_path: Path) -> Callable[..., Command]:
    """job(*overrides): a tiny job in the folder a sweep in tmp_path gives it."""

    def make(*overrides: str) -> Command:
        config = compose(*small, "trainer.steps=4", *overrides)
        folder = tmp_path / job_folder(tmp_path, ",".join(overrides), config)
        (folder / ".hydra").mkdir(parents=True, exist_ok=True)
        return Command(config, folder, {}, list(overrides), 0)

    return make


@pytest.fixture
def sweep() -> Sweep:
    """The sweep of a new process."""
    return Sweep()


def losses(folder: Path) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["train_loss"]) for line in lines]


def printed(capsys: pytest.CaptureFixture[str], folder: Path, sweep: Sweep) -> str:
    capsys.readouterr()  # what runs said before
    print_jobs(folder, sweep.failures, sweep.counts)
    return " ".join(capsys.readouterr().err.split())


def test_a_done_job_is_not_done_again_whatever_it_is_called(
    sweep: Sweep, job: Callable[..., Command], tmp_path: Path
) -> None:
    first = sweep.work(job("optimizer.lr=0.01"), wait=False)
    again = job("optimizer.lr=0.01", "seed=0", "name=other", "threads=2", "trainer.keep_checkpoints=3")
    assert again.folder == job("optimizer.lr=0.01").folder
    assert first and sweep.work(again, wait=False) == json.loads((again.folder / "summary.json").read_text())
    assert sweep.work(job("optimizer.lr=0.02"), wait=False)
    assert sweep.counts == {"run": 2, "done before": 1}
    assert len(list(tmp_path.glob("*-*"))) == 2


def test_a_diverged_job_is_done_and_a_failed_one_is_tried_again(
    sweep: Sweep, job: Callable[..., Command], tmp_path: Path, capsys
) -> None:
    wild = job("optimizer.lr=1e30", "auxiliary.lr=1e30")
    summary = sweep.work(wild, wait=False)
    assert summary and summary["status"] == "diverged" and objective(summary) == math.inf
    sweep.work(wild, wait=False)
    wrong = job("optimizer.momentum=1.5", "threads=2", "trainer.keep_checkpoints=3")
    for _ in range(2):
        with pytest.raises(ConfigError) as error:
            sweep.work(wrong, wait=False)
        assert math.isnan(objective(sweep.failed(wrong.folder, error.value)))
    sweep.failed(wild.folder, ConfigError("[enforce fail] at [/line]"))  # which is no markup
    assert sweep.counts == {"run": 2, "done before": 1, "tried again": 1}
    table = printed(capsys, tmp_path, sweep)
    assert "keep_checkpoints" not in table and "threads" not in table
    assert "optimizer.momentum=1.5 failed optimizer: momentum must be in [0, 1), got 1.5" in table
    assert "[enforce fail] at [/line]" in table and f"resume={tmp_path}" in table
    assert print_jobs(tmp_path, sweep.failures, sweep.counts) is False


def test_a_stopped_job_goes_on_bitwise_from_its_checkpoint(sweep: Sweep, job: Callable[..., Command]) -> None:
    whole = job()
    sweep.work(whole, wait=False)
    expected = losses(whole.folder)
    for path in (whole.folder / "summary.json", whole.folder / "metrics.jsonl"):
        path.unlink()
    for path in whole.folder.glob("checkpoint/*/*"):
        path.unlink()
    half = job("trainer.stop_after_steps=2")
    assert half.folder == whole.folder
    for _ in range(2):  # the second time there is nothing to do
        stopped = sweep.work(half, wait=False)
        assert stopped and (stopped["status"], stopped["steps"]) == ("stopped", 2)
    finished = sweep.work(whole, wait=False)
    assert finished and finished["status"] == "finished"
    assert losses(whole.folder) == expected
    assert sweep.counts == {"run": 2, "done before": 1, "continued": 1}


def test_a_folder_of_another_config_is_left_alone(sweep: Sweep, job: Callable[..., Command]) -> None:
    first, second = job("optimizer.lr=0.01"), job("optimizer.lr=0.02")
    sweep.work(first, wait=False)
    before = (first.folder / "summary.json").read_text()
    with pytest.raises(ConfigError, match=f"another config, got hash {config_hash(first.config)}"):
        sweep.work(Command(second.config, first.folder, {}, [], 0), wait=False)
    assert (first.folder / "summary.json").read_text() == before


def test_a_job_that_another_process_has_is_left_to_it_and_taken_over_when_it_dies(
    sweep: Sweep, job: Callable[..., Command], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first_job = job("optimizer.lr=0.01")
    hold = "import sys, time; from pathlib import Path; from ramen.runs.lock import exclusive\n"
    hold += "with exclusive(Path(sys.argv[1])): print(flush=True), time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", hold, str(first_job.folder)], cwd=ROOT, stdout=subprocess.PIPE)
    assert other.stdout and other.stdout.readline()
    assert sweep.work(first_job, wait=False) is None
    assert "running" in printed(capsys, tmp_path, sweep)
    assert not (first_job.folder / "summary.json").exists()
    other.kill()
    other.wait()
    sweep.postponed.append((first_job, OmegaConf.create({"hydra": {"job_logging": {"root": None}, "verbose": False}})))
    sweep.settle()
    assert "finished" in printed(capsys, tmp_path, sweep)


def test_a_lock_that_is_not_waited_for_is_not_held(tmp_path: Path) -> None:
    with exclusive(tmp_path) as first, exclusive(tmp_path, wait=False) as second:
        assert (first, second, is_locked(tmp_path)) == (True, False, True)
    with exclusive(tmp_path, wait=False) as third:
        assert third
    assert not is_locked(tmp_path) and not is_locked(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "overrides", ["", "optimizer=bam,seed=0", "data.files=/a/b*.txt", "x=" + "y" * 300, "attention=ü/é"]
)
def test_a_jobs_folder_has_a_name_that_every_file_system_takes(overrides: str, tmp_path: Path) -> None:
    for name in (folder_name(overrides), job_folder(tmp_path, overrides, {"seed": 0})):
        assert 0 < len(name) <= FOLDER_NAME_LENGTH and not set(name) & set("/\\:*?\"<>| '")
        (tmp_path / name).mkdir()
    assert folder_name("x" * 300) != folder_name("x" * 301)
    assert job_folder(tmp_path, "other=words", {"seed": 0}) == name


# A process that dies, as by kill -9, as soon as bam has a checkpoint.
DIES = """
import os, signal, sys
from ramen.runs import checkpoint

def save(folder, *rest, original=checkpoint.save, **named):
    path = original(folder, *rest, **named)
    if "optimizer=bam" in str(folder):
        os.kill(os.getpid(), signal.SIGKILL)
    return path

checkpoint.save = save
from ramen.cli.main import main
sys.exit(main(["train", *sys.argv[1:]]))
"""


def start(folder: Path, *arguments: str, dies: bool = False) -> subprocess.Popen[str]:
    program = ["-c", DIES] if dies else [str(ROOT / "train.py")]
    command = [sys.executable, *program, *arguments, f"hydra.sweep.dir={folder}"]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def table(text: str) -> list[list[str]]:
    """The rows of the last table, without tokens a second."""
    return [row.split()[:4] for row in text.rpartition("reason")[2].splitlines()[1:4]]


def test_two_processes_share_what_a_killed_one_left_and_end_with_the_same_table_and_report(
    sweep: Sweep,
    compose: Callable[..., dict[str, Any]],
    tmp_path: Path,
    small: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [*small, "trainer.steps=12", "trainer.checkpoint_every_steps=4"]
    whole, shared = tmp_path / "whole", tmp_path / "shared"
    for name in ("adamw", "bam", "muon"):
        config = compose(*arguments, f"optimizer={name}")

        folder = whole / job_folder(whole, f"optimizer={name}", config)
        (folder / ".hydra").mkdir(parents=True)
        sweep.work(Command(config, folder, {"optimizer": name}, [f"optimizer={name}"], 0), wait=False)
    print_jobs(whole, {}, {})
    expected = table(capsys.readouterr().err)
    assert [row[1] for row in expected] == ["finished"] * 3

    arguments += ["-m", "optimizer=adamw,bam,muon"]
    killed = start(shared, *arguments, dies=True)
    killed.communicate(timeout=900)
    assert killed.returncode == -signal.SIGKILL
    statuses = {path.name[:13]: (path / "summary.json").is_file() for path in shared.glob("optimizer=*")}
    assert statuses == {"optimizer=ada": True, "optimizer=bam": False}

    both = [start(shared, *arguments) for _ in range(2)]
    ends = [process.communicate(timeout=900)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], ends
    counts: Counter[str] = Counter()
    for end in ends:
        counts.update({what: int(n) for n, what in re.findall(r"(\d) (run|continued|tried again|done before)\b", end)})
        assert table(end) == expected
    assert (counts["run"], counts["continued"], counts["tried again"]) == (1, 1, 0), ends
    for done in whole.glob("optimizer=*"):
        assert losses(shared / done.name) == losses(done)
    reports = [compare(folder, out=tmp_path / f"of_{folder.name}") for folder in (whole, shared)]
    timed = [column for column in reports[0].ranking if "second" in column or "memory" in column]
    first, second = (report.ranking.drop(columns=timed) for report in reports)
    assert first.equals(second)
    assert reports[0].warnings == reports[1].warnings


@pytest.mark.parametrize(
    "content", ["{}", "[]", "", "null", '{"status": null}', '{"config_hash": "0"}', '{"steps": 4}']
)
def test_a_job_whose_summary_does_not_say_how_it_ended_is_unfinished(
    sweep: Sweep, job: Callable[..., Command], tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    first_job = job("optimizer.lr=0.01")
    (first_job.folder / "summary.json").write_text(content)
    assert f"{first_job.folder.name} unfinished killed before its end" in printed(capsys, tmp_path, sweep)
    if content == "{}":
        done = sweep.work(first_job, wait=False)
        assert done and done["status"] == "finished"


def test_a_job_whose_summary_is_damaged_is_not_overwritten(
    sweep: Sweep, job: Callable[..., Command], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first_job = job("optimizer.lr=0.01")
    (first_job.folder / "command.yaml").write_bytes(b"- optimizer.lr=0.01\n")
    (first_job.folder / "summary.json").write_text('{"status": "finished", "steps": "?"}')
    assert "optimizer.lr=0.01 unfinished" in printed(capsys, tmp_path, sweep)
    with pytest.raises(DataError, match=r"summary\.json: is damaged, steps"):
        sweep.work(first_job, wait=False)


@pytest.mark.parametrize(
    "content", [b"", b"a: 1", b"3", b"a: *b", b"- a\0b", b"\xff", b"[" * 3000, b"- null", b"- {a: 1}"]
)
def test_damaged_words_are_named_and_a_table_does_without_them(
    sweep: Sweep, content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "a-00000000"
    folder.mkdir()
    (folder / "command.yaml").write_bytes(content)
    with pytest.raises(DataError, match=rf"^{folder}/command\.yaml: is damaged, got "):
        parse([f"resume={folder}"])
    assert "a-00000000 unfinished" in printed(capsys, tmp_path, sweep)
