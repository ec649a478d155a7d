"""The command line as a user meets it: a process, its messages and its exit code."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from hydra.errors import HydraException

from ramen import command

ROOT = Path(__file__).resolve().parent.parent
SMALL = (
    "data.tokenizer=byte", "data.sequence_length=64", "data.validation_tokens=1500", "device=cpu", "precision=fp32", "threads=1",
    "model.layers=1", "model.dim=16", "model.heads=2", "trainer.batch_tokens=256", "trainer.micro_batch_tokens=256",
    "trainer.record_every_steps=1", "trainer.steps=3",
)  # fmt: skip


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"data.folder={tmp_path_factory.mktemp('data')}"


def ramen(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def one_line(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["optimizer=bamm"], ["optimizer: no such option, got 'bamm'; did you mean 'bam'?"]),
        (["optimiser=bam"], ["optimiser: no such key; did you mean 'optimizer'?"]),
        (
            ["optimizer.lrr=1", "mlp=nf", "model.heads=two"],
            [
                "optimizer.lrr: no such key; did you mean 'lr'?",
                "mlp: no such option, got 'nf'",
                "model.heads: input should be a valid integer",
            ],
        ),
        (
            ["optimizer.lr=fast", "mlp.activation=relu3"],
            ["optimizer.lr: ", "mlp.activation: no such choice; did you mean 'relu'?"],
        ),
        (["model.dim=100", "model.heads=3"], ["model.dim must be heads x an even head width, got dim=100, heads=3"]),
        (["optimizer._target_=os.system"], ["optimizer._target_: may not be built, got 'os.system'"]),
        (["data=text"], ["data.files: must be given"]),
        (["data=text", "data.files=/nonexistent/*.txt"], ["/nonexistent/*.txt"]),
        (["resume=/nonexistent"], ["resume: /nonexistent is not a run folder"]),
        (
            ["trainer.steps=0", "trainer.batch_tokens=8"],
            ["trainer.steps: must be > 0", "trainer.batch_tokens: must be at least"],
        ),
        (["schedule.warmup_fraction=0.9"], ["schedule.warmup_fraction + cooldown_fraction must be at most 1, got 1.4"]),
        (["optimizer.momentum=1.5"], ["optimizer: momentum must be in [0, 1), got 1.5"]),
        (
            ["-m", "optimizer=muon,bam", "optimizer.lr=0.1,fast"],
            ["optimizer.lr: input should be a valid number, got 'fast'"],
        ),
    ],
)
def test_what_is_wrong_is_told_at_once_without_a_traceback(words: list[str], told: list[str], tmp_path: Path) -> None:
    place = "hydra.sweep.dir" if "-m" in words else "hydra.run.dir"
    done = ramen(*words, f"{place}={tmp_path / 'run'}")
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    for message in told:
        assert message in one_line(done.stderr)


def test_an_output_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = ramen(*SMALL, f"hydra.run.dir={tmp_path / 'file' / 'run'}")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert str(tmp_path / "file") in done.stderr


def test_help_lists_the_groups_and_loads_no_torch() -> None:
    code = """
import sys
from ramen.command import main
sys.argv = ["train.py", "--help"]
try:
    main()
finally:
    assert "torch" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "optimizer: " in done.stdout
    assert "bam" in done.stdout


def test_a_plugin_that_is_not_installed_is_named() -> None:
    error = HydraException("In 'sweep/optuna': Could not find 'hydra/sweeper/optuna'\n\nAvailable options: basic")
    assert command._explain("sweep=optuna", error, []).endswith("not installed: pip install 'ramen[optuna]'")


def test_a_sweep_survives_a_failing_job_says_why_and_is_continued_by_its_folder(tmp_path: Path, data: str) -> None:
    words = [*SMALL, data, "-m", "optimizer=bam", "optimizer.momentum=1.5,0.9", f"hydra.sweep.dir={tmp_path}"]
    done = ramen(*words)
    summaries = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("optimizer.momentum=*/summary.json"))]
    assert [summary["status"] for summary in summaries] == ["finished", "failed"]
    assert summaries[1]["error"] == "optimizer: momentum must be in [0, 1), got 1.5"
    assert done.returncode == 1
    assert one_line(done.stderr).count("momentum must be in [0, 1)") >= 2
    assert f"scripts/compare.py {tmp_path}" in done.stderr
    again = ramen(f"resume={tmp_path}", "optimizer.momentum=0.9,0.8")  # not what is wrong again, nor what is done
    assert "3 jobs: 1 done before, 1 run" in one_line(again.stderr)


def test_a_search_minimises_the_loss_and_outlives_a_failed_trial(tmp_path: Path, data: str) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    words = [*SMALL, data, "-m", "sweep=optuna", "optimizer=bam", "optimizer.momentum=choice(0.9,1.5)"]
    done = ramen(*words, "hydra.sweeper.n_trials=4", f"hydra.sweep.dir={tmp_path}")
    told = [json.loads(path.read_text()) for path in tmp_path.glob("*/summary.json")]
    assert len(told) == 4 and {summary["status"] for summary in told} == {"finished", "failed"}, done.stderr
    best = yaml.safe_load((tmp_path / "optimization_results.yaml").read_text())
    assert best["best_value"] == min(summary.get("final_val_loss", 99) for summary in told)


def test_a_launcher_of_other_processes_ends_with_the_same_folder_and_table(tmp_path: Path, data: str) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    done = ramen(*SMALL, data, "-m", "optimizer=bam", "hydra/launcher=submitit_local", f"hydra.sweep.dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    [summary] = [json.loads(path.read_text()) for path in tmp_path.glob("*/summary.json")]
    assert summary["status"] == "finished" and f"{summary['final_val_loss']:.4f}" in done.stderr


def test_a_stopped_run_is_resumed_in_its_folder(tmp_path: Path, data: str) -> None:
    folder = tmp_path / "a run, with=odd name"
    assert ramen(*SMALL, data, "trainer.stop_after_steps=2", f"hydra.run.dir='{folder}'").returncode == 0
    assert json.loads((folder / "summary.json").read_text())["status"] == "stopped"
    done = ramen(f"resume={folder}", "trainer.stop_after_steps=null")
    assert done.returncode == 0, done.stderr
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["status"], summary["steps"]) == ("finished", 3)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_ends_cleanly(tmp_path: Path, data: str, number: signal.Signals) -> None:
    words = [*SMALL, data, "trainer.steps=1000000", f"hydra.run.dir={tmp_path / 'run'}"]
    process = subprocess.Popen([sys.executable, str(ROOT / "train.py"), *words], cwd=ROOT, stderr=subprocess.DEVNULL)
    metrics = tmp_path / "run" / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text()):
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, number)
    assert process.wait(timeout=60) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["status"], summary["error"]) == ("stopped", number.name)
    assert list((tmp_path / "run" / "checkpoint").glob("step_*"))


def test_a_sample_of_a_trained_run_is_the_same_for_the_same_seed(tmp_path: Path, data: str) -> None:
    folder = tmp_path / "run"
    assert ramen(*SMALL, data, f"hydra.run.dir={folder}").returncode == 0

    def sample(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "scripts" / "sample.py"), *words]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)

    first, again, other = (sample(str(folder), "--tokens", "20", "--prompt", "KING", "--seed", seed) for seed in "112")
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("KING")
    assert first.stdout == again.stdout != other.stdout
    missing = sample(str(tmp_path / "nowhere"))
    assert (missing.returncode, "Traceback" in missing.stderr) == (2, False)
