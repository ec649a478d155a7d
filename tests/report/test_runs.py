"""Discovery and reading of run folders, sound and broken."""

import pytest

from ramen.errors import DataError
from ramen.runs.read import read_run, read_runs


def test_runs_are_found_at_any_depth_and_once(tmp_path, write_run):
    deep = write_run(tmp_path / "a" / "b" / "c")
    flat = write_run(tmp_path / "d")
    runs, warnings = read_runs([tmp_path, tmp_path / "a", deep])
    assert [run.folder for run in runs] == [deep, flat]
    assert len(warnings) == 2  # both further folders hold nothing new


def test_foreign_folders_are_told_apart(tmp_path, write_run):
    run = write_run(tmp_path / "run")
    for place in ("run/checkpoint", "run/.hydra", "run/wandb/files", "started", "empty"):
        (tmp_path / place).mkdir(parents=True)
    for place in ("run/checkpoint", "run/.hydra", "run/wandb/files", "started"):
        (tmp_path / place / "config.yaml").write_text("seed: 1")
    (tmp_path / "orphan").mkdir()
    (tmp_path / "orphan" / "metrics.jsonl").write_text("")
    runs, warnings = read_runs([tmp_path])
    assert [each.folder for each in runs] == [run]
    assert [("orphan" in w, "started" in w) for w in warnings] == [(True, False), (False, True)]


@pytest.mark.parametrize("place", ["", "missing"])
def test_nothing_found_is_an_error(tmp_path, place):
    with pytest.raises(DataError, match="no such folder" if place else "no runs found"):
        read_runs([tmp_path / place])


def test_sound_run(tmp_path, write_run):
    run = read_run(write_run(tmp_path / "r", "bam", lr=0.02, seed=7, final=3.25))
    assert (run.seed, run.status, run.metric("final_val_loss"), run.reason) == (7, "finished", 3.25, "")
    assert (run.value("optimizer"), run.value("optimizer.lr"), run.value("model.layers")) == ("bam", 0.02, 4)
    assert (run.facts["git_commit"], run.facts["device"], run.warnings) == ("a" * 40, "Planted GPU", [])


def test_exponents_and_whole_floats_are_numbers(tmp_path, write_run):
    folder = write_run(tmp_path / "r")
    text = (folder / "config.yaml").read_text().replace("lr: 0.01", "lr: 1e-2").replace("layers: 4", "layers: 4.0")
    (folder / "config.yaml").write_text(text)
    assert (read_run(folder).value("optimizer.lr"), read_run(folder).value("model.layers")) == (0.01, 4)


@pytest.mark.parametrize(
    ("content", "status", "reason"),
    [
        (None, "unfinished", "still running or killed; last record at step 200"),
        ("{", "unfinished", "still running or killed"),
        ("[1]", "unfinished", "still running or killed"),
        ('{"status": "done"}', "unfinished", "'done'"),
        ('{"status": "diverged", "error": "loss was\\nNaN"}', "diverged", "loss was NaN"),
        ('{"status": "failed"}', "failed", "no reason recorded"),
    ],
)
def test_summary_that_is_missing_or_broken(tmp_path, write_run, content, status, reason):
    folder = write_run(tmp_path / "r", "bam")
    (folder / "summary.json").unlink()
    if content is not None:
        (folder / "summary.json").write_text(content)
    run = read_run(folder)
    assert run.status == status
    assert reason in run.reason
    assert run.value("optimizer") == "bam"  # which environment.json tells from the start


@pytest.mark.parametrize("content", [b"", b"3", b"a: [", b"\xff\xfe\x00", b"- 1", b"a: &x\n  b: *x", b"d: 2024-99-99"])
def test_a_broken_config_is_named(tmp_path, write_run, content):
    folder = write_run(tmp_path / "r")
    (folder / "config.yaml").write_bytes(content)
    with pytest.raises(DataError, match=r"config\.yaml: is damaged"):
        read_run(folder)


def test_summary_that_contradicts_the_metrics_is_told(tmp_path, write_run):
    run = read_run(write_run(tmp_path / "r", final=3.0, summary={"final_val_loss": 2.0}))
    assert "final_val_loss 2.0000, metrics.jsonl ends with 3.0000" in run.warnings[0]


def test_the_learning_rate_is_the_one_that_matrices_get(tmp_path, write_run):
    """A grid of routing.matrix.lr_scale is a grid of learning rates, and only where the optimizer trains the matrices."""
    scaled = write_run(tmp_path / "a", lr=0.03, config={"routing.matrix.lr_scale": 0.1})
    config = read_run(scaled).config
    assert (config["optimizer.lr"], config["routing.matrix.lr_scale"]) == (0.003, 1)
    elsewhere = {"routing.matrix.lr_scale": 0.5, "routing.matrix.to": "auxiliary"}
    assert read_run(write_run(tmp_path / "b", lr=0.03, config=elsewhere)).config["optimizer.lr"] == 0.03
