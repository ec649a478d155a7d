"""The command line as a user meets it: a process, its messages and its exit code."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.errors import HydraException

from ramen.build.run import validate
from ramen.cli.command import parse
from ramen.cli.main import main
from ramen.config.compose import Composer
from ramen.errors import ConfigError, tolerate_broken_pipe

ROOT = Path(__file__).resolve().parents[2]
Words = tuple[str, ...]
Ramen = Callable[..., subprocess.CompletedProcess[str]]


def one_line(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (  # what Hydra stops at and what the schema finds
            ["--cfg", "job", "optimizer=bamm", "optimiser=bam", "optimizer.lrr=1", "mlp=nf", "model.heads=two", "optimizer.lr=fast",
             "mlp.activation=relu3", "attention._target_=os.system", "hydra.rin.dir=x", "batch_schedule=stepped",
             "optimizer.momentum_schedule=null"],
            ["optimizer: no such option, got 'bamm'; did you mean 'bam'?",
             "optimiser: no such key; did you mean 'optimizer'?",
             "optimizer.lrr: no such key; did you mean 'lr'?",
             "mlp: no such option, got 'nf'",
             "model.heads: input should be a valid integer",
             "optimizer.lr: input should be a valid number, got 'fast'",
             "mlp.activation: no such choice; did you mean 'relu'?",
             "attention._target_: may not be built for attention, got 'os.system'",
             "hydra.rin: no such key; did you mean 'run'?",
             "batch_schedule: must be a section with a _target_, got 'stepped'; choose one by schedule@batch_schedule=",
             "optimizer.momentum_schedule: must be a schedule, got None"],
        ),
        (["optimizer.momentum=1.5"], ["optimizer: momentum must be in [0, 1), got 1.5"]),  # what only its constructor knows
        (["data=text"], ["data.files: must be given"]),
        (["data=text", "data.files=/nonexistent/*.txt"], ["/nonexistent/*.txt"]),
        (["resume=/nonexistent"], ["resume: /nonexistent is not the folder of a run or sweep"]),
        (["resume=/a", "resume=auto"], ["resume: continues one run or sweep, got resume=/a resume=auto"]),
        (["seed=0,1"], ["seed=0,1: several values are a sweep; add -m, or write a list as seed=[A,B]"]),
        (["optimizer=adamw", "schedule@optimizer.momentum_schedule=constant", "schedule@bach_schedule=stepped",
          "schedule@optimiser.lr_schedule=wsd"],
         ["schedule@optimizer.momentum_schedule: no such schedule; ", "; +schedule@optimizer.momentum_schedule=constant adds one",
          "schedule@bach_schedule: no such schedule; did you mean 'schedule@batch_schedule'?",
          "schedule@optimiser.lr_schedule: no such schedule; "]),
        (["sweep=optimizers"], ["sweep=optimizers: starts several runs; add -m"]),
        (["-m", "optimizer.lr=interval(0.01,0.03)"], ["interval(0.01,0.03): an interval is for a search; add sweep=optuna"]),
        (["-m", "optimizer=muon,bam", "mlp=default,nf", "optimizer.lr=0.1,fast"],
         ["optimizer.lr: input should be a valid number, got 'fast'", "mlp: no such option, got 'nf'"]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_at_once_without_a_traceback(
    ramen: Ramen, arguments: list[str], expected: list[str], tmp_path: Path
) -> None:
    place = "hydra.sweep.dir" if "-m" in arguments else "hydra.run.dir"
    done = ramen(*arguments, f"{place}={tmp_path / 'run'}")
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr and "job: no such key" not in done.stderr
    for message in expected:
        assert message in one_line(done.stderr)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["model.dim=100", "model.heads=3"], "model.dim must be heads x an even head width, got dim=100, heads=3"),
        (["model.heads=0"], "model.heads must be >= 1, got 0"),
        (["trainer.batch_tokens=8", "trainer.micro_batch_tokens=9"], "batch_tokens: must be at .*micro_batch_tokens: must be at"),
        (["schedule.warmup_fraction=0.9"], "schedule.warmup_fraction [+] cooldown_fraction must be at most 1, got 1.4"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_found_before_data_is_touched(
    compose: Callable[..., dict[str, Any]], arguments: list[str], expected: str
) -> None:
    with pytest.raises(ConfigError, match=f"(?s){expected}"):
        validate(compose(*arguments, "device=cpu", "threads=1"))


def test_an_output_folder_that_cannot_be_made_is_told(ramen: Ramen, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = ramen(f"hydra.run.dir={tmp_path / 'file' / 'run'}")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert str(tmp_path / "file") in done.stderr


def test_help_lists_the_groups_and_loads_no_torch() -> None:
    code = """
import sys
from ramen.cli.main import main
assert main(["train", "--help"]) == 0
assert "torch" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "optimizer: " in done.stdout
    assert "bam" in done.stdout


@pytest.mark.parametrize(
    ("door", "unbuffered"),
    [("train.py", ""), ("train.py", "1"), ("scripts/prepare_data.py", "1"), ("scripts/sample.py", "")],
)
def test_help_ends_quietly_when_nobody_reads_on(door: str, unbuffered: str) -> None:
    reader, pipe = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, door, "--help"], cwd=ROOT, stdout=pipe, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    )  # fmt: skip
    os.close(pipe)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_mistake_beside_a_folder_of_own_config_is_told_alone(tmp_path: Path, capsys) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nseed: 3\n")
    assert main(["train", "experiment=mine", "mlp=nf", "--config-dir", str(tmp_path), "--cfg", "job"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("mlp: no such option, got 'nf'") and message.count("\n") == 1


def test_a_plugin_that_is_not_installed_is_named() -> None:
    with Composer().open() as composer:
        [problem] = composer.problems(["hydra/launcher=submitit"], HydraException("Could not find it"))
    assert problem.endswith("not installed: pip install 'ramen[slurm]'")


def test_a_sweep_survives_a_failing_job_says_why_and_is_continued_by_its_folder(
    ramen: Ramen, tmp_path: Path, small: Words
) -> None:
    arguments = [*small, "-m", "optimizer=bam", "optimizer.momentum=1.5,0.9", f"hydra.sweep.dir={tmp_path}"]
    done = ramen(*arguments)
    summaries = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("optimizer.momentum=*/summary.json"))]
    assert [summary["status"] for summary in summaries] == ["finished", "failed"]
    assert summaries[1]["error"] == "optimizer: momentum must be in [0, 1), got 1.5"
    assert done.returncode == 1
    assert one_line(done.stderr).count("momentum must be in [0, 1)") >= 2
    assert f"ramen compare {tmp_path}" in done.stderr
    again = ramen(f"resume={tmp_path}", "optimizer.momentum=0.9,0.8")  # not what is wrong again, nor what is done
    assert "3 jobs: 1 done before, 1 run" in one_line(again.stderr)


def test_a_search_minimises_the_loss_and_outlives_a_failed_trial(ramen: Ramen, tmp_path: Path, small: Words) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    arguments = [*small, "-m", "sweep=optuna", "optimizer=bam", "optimizer.momentum=choice(0.9,1.5)"]
    done = ramen(*arguments, "hydra.sweeper.n_trials=4", f"hydra.sweep.dir={tmp_path}")
    summaries = [json.loads(path.read_text()) for path in tmp_path.glob("*/summary.json")]
    assert len(summaries) == 4 and {summary["status"] for summary in summaries} == {"finished", "failed"}, done.stderr
    best = yaml.safe_load((tmp_path / "optimization_results.yaml").read_text())
    assert best["best_value"] == min(summary.get("final_val_loss", 99) for summary in summaries)


def test_a_launcher_of_other_processes_ends_with_the_same_folder_and_table(
    ramen: Ramen, tmp_path: Path, small: Words
) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    done = ramen(*small, "-m", "optimizer=bam", "hydra/launcher=submitit_local", f"hydra.sweep.dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    [summary] = [json.loads(path.read_text()) for path in tmp_path.glob("*/summary.json")]
    assert summary["status"] == "finished" and f"{summary['final_val_loss']:.4f}" in done.stderr


def test_ctrl_c_saves_ends_cleanly_and_the_run_goes_on_in_its_folder(
    ramen: Ramen, tmp_path: Path, small: Words
) -> None:
    """SIGTERM does the same: tests/test_faults.py."""
    folder = tmp_path / "a run, with=odd name"
    arguments = [*small, "trainer.steps=1000000", f"hydra.run.dir='{folder}'"]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *arguments], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    metrics = folder / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text()):
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(timeout=60) == 0
    stopped = json.loads((folder / "summary.json").read_text())
    assert (stopped["status"], stopped["error"]) == ("stopped", "SIGINT")
    assert list((folder / "checkpoint").glob("step_*"))
    assert ramen(f"resume={folder}", "optimizer.lr=mistyped").returncode == 2  # and is not the run's from now on
    more = f"trainer.steps={stopped['steps'] + 2}"
    done = ramen(f"resume={folder}", more)
    assert done.returncode == 0, done.stderr
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["status"], summary["steps"]) == ("finished", stopped["steps"] + 2)
    assert more in parse([f"resume={folder}"]).overrides


@pytest.mark.parametrize("word", ["+sweep=optimizers", "+experiment=demo", "+debug=smoke"])
def test_a_plus_before_a_composition_is_no_mistake(compose: Callable[..., dict[str, Any]], word: str) -> None:
    assert parse(["-m", word, "+mlp.new=1"]).overrides == (word[1:], "+mlp.new=1")
    assert compose(word[1:])


@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
@pytest.mark.parametrize("place", ["run", "sweep"])
def test_a_folder_that_no_system_can_name_is_refused(name: str, place: str, tmp_path: Path, capsys) -> None:
    """Only a yaml can say it."""
    (tmp_path / "experiment").mkdir()
    yaml_text = f"# @package _global_\nhydra: {{{place}: {{dir: {json.dumps(name)}}}}}\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(yaml_text)
    arguments = ["-m", "seed=1,2"] if place == "sweep" else []
    assert main(["train", "experiment=mine", "--config-dir", str(tmp_path), *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"hydra.{place}.dir: must be text that a file can be named by")


def test_what_stdout_has_no_character_for_is_told_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    with tolerate_broken_pipe():
        print("3 ± 1", "\udcff")
    sys.stdout.seek(0)
    assert sys.stdout.read() == "3 \\xb1 1 \\udcff\n"
