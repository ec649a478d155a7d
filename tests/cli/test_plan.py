"""A sweep is checked before its first job: what would run less than was asked, too much, or nothing but failures."""

from pathlib import Path

import pytest

from ramen.cli.command import parse
from ramen.cli.main import main
from ramen.cli.plan import planned


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["seed=0,1", "seed=2"], "seed: is given twice in a sweep, got seed=0,1 seed=2"),
        (["sweep=seeds,learning_rate"], "sweep: names one sweep, got sweep=seeds,learning_rate"),
        (["hydra.verbose=true,false"], "hydra.verbose: is the same for all jobs"),
        (["diagnostics=off,on"], "diagnostics: does not change the result, got diagnostics=off and diagnostics=on"),
        (["trainer.prefetch_batches=1,2"], "trainer.prefetch_batches: does not change the result"),
        (["name=a,b"], "name: does not change the result"),
        (["optimizer.lr=0.1,0.2,0.10"], "optimizer.lr: does not change the result, got optimizer.lr=0.1 and optimizer.lr=0.1,"),
        (["seed=range(0,1000000000)"], "hydra.sweep: has too many jobs, got 1,000,000,000; allowed are 1,000"),
        (["seed=range(0,100)", "optimizer.lr=range(0.01,0.2,0.01)"], "got 1,900; allowed are 1,000"),
        (["seed=range(0,3,0)"], "seed=range(0,3,0): is no range"),
        (["seed=range(0,inf)"], "seed=range(0,inf): is no range"),
        (["seed=range(3,0)"], "seed=range(3,0): holds no value"),
        (["seed=glob(*)"], "seed=glob(*): holds no value"),
        (["optimizer=range(0,1000000000)"], "too many jobs"),
        (["optimizer.momentum=1.5", "seed=0,1"], "optimizer: momentum must be in [0, 1), got 1.5"),
        (["residual=hc,standard", "residual.streams=2"], "no such key; there are none; in jobs with residual=standard"),
        (["mlp=ff,default", "mlp.depth=2"], "mlp.depth: no such key"),
        (["sweep=optuna", "optimizer=adamw"], "optimizer.momentum: no such key"),
        (["optimizer.lr=0.1,${nothing}"], "optimizer.lr: Interpolation key 'nothing' not found, got '${nothing}'"),
    ],
)  # fmt: skip
def test_a_sweep_that_makes_no_sense_is_refused(
    arguments: list[str], message: str, tmp_path: Path, small: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    if "sweep=optuna" in arguments:
        pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    assert main(["train", "-m", *small, *arguments, f"hydra.sweep.dir={tmp_path / 'sweep'}"]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize("swept", ["residual=hc,mhc", "schedule=linear,cosine"])
def test_a_key_of_swept_options_waits_for_them(swept: str, tmp_path: Path) -> None:
    """Hydra's config of a sweep does not have it."""
    section = swept.partition("=")[0]
    key = {"residual": "residual.streams=2", "schedule": "schedule.warmup_fraction=0.1"}[section]
    command = parse(["-m", swept, key, f"hydra.sweep.dir={tmp_path}"])
    with command.composer().open() as composer:
        plan, folder = planned(command, composer)
    assert folder == tmp_path
    assert f"{key.partition('=')[0]}=choice({key.partition('=')[2]})" in plan.overrides


def test_a_failing_value_fails_alone(tmp_path: Path, small: tuple[str, ...]) -> None:
    command = parse(["-m", *small, "optimizer.momentum=1.5,0.9", f"hydra.sweep.dir={tmp_path}"])
    with command.composer().open() as composer:
        planned(command, composer)
