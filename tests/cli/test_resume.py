"""`resume=FOLDER`: the words of a run or sweep again, of which a folder of unknown origin can run nothing."""

from pathlib import Path

import pytest

from ramen.cli.command import parse
from ramen.cli.main import main
from ramen.errors import ConfigError
from ramen.runs.folder import RunFolder


def folder_of(path: Path, *arguments: str) -> Path:
    RunFolder(path).remember(list(arguments))
    return path


def test_a_run_is_its_words_again_in_its_folder(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "a b", "optimizer=bam", "seed=3", "resume=elsewhere", "hydra.run.dir=elsewhere")
    command = parse([f"resume={folder}", "seed=4", "--cfg", "job"])
    assert command.overrides == ("optimizer=bam", "seed=4", f"resume='{folder}'", f"hydra.run.dir='{folder}'")
    assert command.options == {"cfg": "job"} and not command.multirun


def test_a_sweep_is_its_words_again_with_new_values(tmp_path: Path) -> None:
    folder_of(tmp_path, "-m", "optimizer=bam", "optimizer.lr=1,2", "hydra/launcher=slurm", "hydra.sweeper.n_trials=3")
    command = parse([f"resume={tmp_path}", "optimizer.lr=2,3"])
    arguments = ("optimizer=bam", "hydra/launcher=slurm", "hydra.sweeper.n_trials=3", "optimizer.lr=2,3")
    assert command.overrides == (*arguments, f"hydra.sweep.dir='{tmp_path}'")
    assert command.multirun


@pytest.mark.parametrize(
    "word",
    [
        "+hydra.callbacks.x._target_=received.Payload", "hydra.searchpath=[file:///tmp]", "allow_targets=[received]",
        "++allow_targets.0=received", "hydra={callbacks: {x: {_target_: received.Payload}}}", "hydra.job.env_set.X=1",
        "+hydra.job.env_set.LD_PRELOAD=x.so", "hydra.launcher.setup=[rm]", "hydra.sweeper.storage=sqlite:///x",
        "hydra.launcher._target_=received.Payload", "hydra/launcher=received", "hydra/job_logging=received",
        "+experiment@hydra.callbacks=demo", "+optimizer@hydra.callbacks.x=adamw", "experiment=../../received",
        "experiment=/tmp/received", "optimizer=a,../received", "--config-dir=/tmp", "--experimental-rerun=x.pickle", "-m", "",
        "hydra.sweeper.params.x=hydra", "~hydra.callbacks", "hydra.sweeper.n_trials='3'",
    ],
)  # fmt: skip
def test_a_saved_word_that_could_run_code_is_named_unless_given_again(word: str, tmp_path: Path) -> None:
    folder_of(tmp_path, "seed=3", word)
    with pytest.raises(ConfigError) as refused:
        parse([f"resume={tmp_path}"])
    assert str(refused.value) == f"resume: {tmp_path}/command.yaml says {word}; give that again to trust it"
    if "=" in word[1:] and word[0] != "-":
        assert word in parse([f"resume={tmp_path}", word]).overrides


def test_a_received_folder_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    (tmp_path / "received.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    arguments = (
        "+hydra.callbacks.x._target_=received.Payload",
        "allow_targets=[received]",
        "optimizer._target_=received.Opt",
    )
    for name, folder_words in (("run", arguments), ("sweep", ("-m", *arguments)), ("target", arguments[2:])):
        folder = folder_of(tmp_path / name, *folder_words)
        assert main(["train", f"resume={folder}"]) == 2
        assert "received" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("arguments", [("resume=/a", "resume=auto"), ("resume=/nonexistent",), ("-m", "resume=.")])
def test_a_continuation_that_makes_no_sense_is_refused(arguments: tuple[str, ...], capsys) -> None:
    assert main(["train", *arguments]) == 2
    assert capsys.readouterr().err.startswith("resume: ")


def test_a_folder_is_of_a_run_or_of_a_sweep(tmp_path: Path, small: tuple[str, ...], capsys) -> None:
    folder_of(tmp_path / "run", *small)
    folder_of(tmp_path / "sweep", "-m", *small)
    assert main(["train", "-m", *small, f"hydra.sweep.dir={tmp_path / 'run'}"]) == 2
    assert main(["train", *small, f"hydra.run.dir={tmp_path / 'sweep'}"]) == 2
    message = capsys.readouterr().err
    assert (
        "run is the folder of a run; choose another" in message and "sweep is the folder of a sweep; choose" in message
    )
