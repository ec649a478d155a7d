"""Problems of overrides: every one at once, with its key and what is allowed."""

from collections.abc import Sequence
from typing import Any

import hydra
import pytest

from ramen.config.compose import Composer
from ramen.config.kinds import KINDS
from ramen.config.registry import options
from ramen.errors import ConfigError

PROBLEMS = {
    **{
        f"{kind}={value}": f"{kind}: no such option, got "
        for kind in ("optimizer", "experiment", "hydra/launcher")
        for value in ("null", "false", "true", "3", "1.5", "[a]", "''", "${seed}")
    },
    "mlp=range(0,1000000000)": "mlp: no such option, got '0'",
    "seed=range(0,1000000000)": "seed=range(0,1000000000): several values are a sweep; add -m",
    "device=a,b": "device=a,b: several values are a sweep; add -m",
    "threads=~/x": "threads=~/x: cannot be read; quote the value, within the quotes of the shell: 'threads=\"~/x\"'",
    "name=привет": "name=привет: cannot be read",
    "name=a=b": "name=a=b: cannot be read",
    "optimizer": "optimizer: is no override; write KEY=VALUE",
    "=3": "=3: is no override; write KEY=VALUE",
    "hydra.mode=X": "hydra.mode=X: hydra.mode: Invalid value 'X'",
    "hydra.rin.dir=x": "hydra.rin.dir=x: hydra.rin: no such key; did you mean 'run'?",
    "hydra=3": "hydra=3: Config group override must be a string or a list",
}


def problems(*overrides: str) -> Sequence[str]:
    with Composer().open() as composer, pytest.raises(ConfigError) as error:
        composer.checked(overrides)
    return error.value.problems


def test_every_problem_is_told_at_once_by_its_key() -> None:
    result = problems(*PROBLEMS)
    for start in PROBLEMS.values():
        assert any(problem.startswith(start) for problem in result), (start, result)
    assert len(result) == len(PROBLEMS) + 1  # a range of options is wrong twice


def test_all_options_of_a_group_are_named() -> None:
    known = {kind: list(options(kind)) for kind in KINDS if kind != "tuned"}
    known |= {"hydra/launcher": ["basic", "slurm"], "hydra/sweeper": ["basic"], "hydra/job_logging": ["ramen"]}
    result = {problem.partition(":")[0]: problem for problem in problems(*(f"{kind}=no_such" for kind in known))}
    assert result.keys() == known.keys()
    for kind, names in known.items():
        assert all(name in result[kind] for name in names)


def test_broken_interpolations_are_told_by_their_keys() -> None:
    result = problems("optimizer.lr=${foo}", "name=${oc.env:NO_SUCH}", "seed=${trainer.steps}")
    assert [problem.partition(": ")[0] for problem in result] == ["name", "optimizer.lr"]
    assert "Environment variable 'NO_SUCH' not found" in result[0] and "'foo' not found, got '${foo}'" in result[1]


def test_one_key_that_cannot_be_read_is_one_problem() -> None:
    assert len(problems("data=text", "data.files=~/x.txt")) == 1


def test_a_mistake_among_many_words_costs_few_compositions(monkeypatch: pytest.MonkeyPatch) -> None:
    compositions = []

    def compose(*arguments: Any, **choices: Any) -> Any:
        compositions.append(arguments)
        return original(*arguments, **choices)

    original = hydra.compose
    monkeypatch.setattr(hydra, "compose", compose)
    keys = ("seed", "model.layers", "model.dim", "model.heads", "trainer.steps", "optimizer.momentm", "threads")
    assert len(problems(*(f"{key}=1" for key in keys), "mlp=ff", "optimizer=bam", "schedule=wsd", "mlp.depth=2")) == 1
    assert len(compositions) <= 5
