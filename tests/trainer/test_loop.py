"""The loop: what a step does, what a record says, and that a run stopped and resumed is the run that was not."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ramen.errors import ConfigError
from ramen.registry import options
from ramen.trainer import checkpoint

Train = Callable[..., dict[str, Any]]


@pytest.mark.parametrize(
    "optimizer",
    [
        name
        for name, option in options("optimizer").items()
        if option.target and not option.target.startswith("pytorch_optimizer")
    ],
)
def test_resumed_equals_uninterrupted_bitwise(train: Train, assert_bitwise: Any, optimizer: str) -> None:
    """Weights, records and data order, under a batch schedule, stopped between two records."""
    more = (f"optimizer={optimizer}", "schedule@batch_schedule=stepped", "trainer.evaluate_every_steps=4")
    if optimizer == "spectron":
        more = (*more, "linear=low_rank")
    train("whole", *more)
    assert train("parts", *more, "trainer.stop_after_steps=5")["status"] == "stopped"
    assert train("parts", *more, "resume=here")["status"] == "finished"
    assert_bitwise("parts", "whole")


def test_records_are_made_when_due_and_at_the_end(train: Train, records: Any) -> None:
    train("run", "trainer.steps=7", "trainer.record_every_steps=3", "trainer.evaluate_every_steps=4")
    made = records("run")
    assert [record["step"] for record in made] == [3, 4, 6, 7]
    assert [record["val_loss"] is not None for record in made] == [False, True, False, True]
    assert all(record["tokens"] == 256 * record["step"] for record in made)
    assert all(math.isfinite(record["train_loss"]) and record["grad_norm"] > 0 for record in made)


def test_schedules_appear_in_the_records_as_set(train: Train, records: Any) -> None:
    train(
        "run",
        "optimizer=muon",
        "trainer.record_every_steps=1",
        "trainer.steps=4",
        "schedule.warmup_fraction=0.25",
        "schedule.cooldown_fraction=0.5",
    )
    made = records("run")
    assert [record["lr"] / 0.02 for record in made] == pytest.approx([0.5, 1.0, 0.75, 0.25])
    assert [record["auxiliary_lr"] / made[1]["auxiliary_lr"] for record in made] == pytest.approx(
        [0.5, 1.0, 0.75, 0.25]
    )
    assert made[1]["momentum"] == pytest.approx(0.95)


def test_the_batch_schedule_grows_the_batch_by_whole_micro_batches(train: Train, records: Any) -> None:
    train("run", "schedule@batch_schedule=stepped", "trainer.record_every_steps=1", "trainer.steps=8")
    assert [record["batch_tokens"] // 256 for record in records("run")] == [1, 1, 2, 2, 4, 4, 8, 8]


def test_budgets_of_tokens_and_seconds_end_the_run_with_a_full_decay(train: Train, records: Any) -> None:
    summary = train("tokens", "trainer.steps=null", "trainer.tokens=1024")
    assert (summary["steps"], summary["tokens"]) == (4, 1024)
    summary = train("seconds", "trainer.steps=null", "trainer.seconds=0.3", "trainer.record_every_steps=1")
    assert summary["train_seconds"] >= 0.3
    assert summary["status"] == "finished"
    assert records("seconds")[-1]["lr"] < 0.5 * 0.02


def test_clipping_bounds_the_gradient_that_the_optimizer_sees(train: Train, weights: Any) -> None:
    """AdamW with a huge eps steps in proportion to the gradient: clipped a hundred times tighter, it moves a hundred times less."""
    moves = []
    for clip in (1e-2, 1e-4):
        name = f"clip{clip}"
        options = (
            "optimizer=adamw",
            "optimizer.eps=1e6",
            "optimizer.lr=1e6",
            "optimizer.weight_decay=0",
            "auxiliary.eps=1e6",
            "auxiliary.lr=1e6",
        )
        train(name, *options, f"trainer.grad_clip={clip}", "trainer.steps=1", "schedule=constant")
        train(f"{name}start", *options, "optimizer.lr=0", "auxiliary.lr=0", "trainer.steps=1", "schedule=constant")
        key = "embedding.weight"
        moves.append((weights(name)[key] - weights(f"{name}start")[key]).norm().item())
    assert moves[0] / moves[1] == pytest.approx(100, rel=0.05)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("auxiliary.lr=1e10",), "above the first training loss"),
        (("auxiliary.lr=1e10", "model.softcap=null"), "above the first training loss"),
        (("auxiliary.lr=1e39",), "nan"),
    ],
)
def test_a_divergence_is_a_result_with_its_reason(
    train: Train, tmp_path: Path, options: tuple[str, ...], reason: str
) -> None:
    summary = train("run", *options, "trainer.record_every_steps=1")
    assert summary["status"] == "diverged"
    assert reason in summary["error"]
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "diverged"


def test_a_run_of_a_few_steps_may_end_above_its_beginning(train: Train, tmp_path: Path) -> None:
    one = train("one", "trainer.steps=1", "auxiliary.lr=1")
    assert one["final_val_loss"] > one["final_train_loss"] and one["status"] == "finished"
    train("whole", "trainer.record_every_steps=8")  # the first record is a mean over all steps: not where the run began
    first = checkpoint.load_state(checkpoint.latest(tmp_path / "whole"))["progress"]["first_loss"]
    assert first == one["final_train_loss"]


def test_resuming_another_computation_names_what_differs(train: Train) -> None:
    train("run", "trainer.stop_after_steps=4")
    with pytest.raises(ConfigError) as told:
        train("run", "resume=here", "optimizer.lr=0.5", "seed=9")
    assert [problem.split(":")[0] for problem in told.value.problems] == ["optimizer.lr", "seed"]


def test_a_longer_budget_may_continue_a_finished_run(train: Train, records: Any) -> None:
    train("run")
    summary = train("run", "resume=here", "trainer.steps=12")
    assert summary["steps"] == 12
    assert [record["step"] for record in records("run")] == [2, 4, 6, 8, 10, 12]
    for less in ("trainer.steps=8", "trainer.tokens=2000", "trainer.seconds=1e-9"):  # its folder would tell of 12 steps
        with pytest.raises(ConfigError, match=f"{less.partition('=')[0]}: is less than .*step_00000012 has behind it"):
            train("run", "resume=here", "trainer.steps=12", less)


@pytest.mark.parametrize("due", ["trainer.keep_best=true", "trainer.checkpoint_every_steps=4"])
def test_what_is_due_at_the_last_step_is_saved_whatever_else_is_at_the_end(
    train: Train, tmp_path: Path, due: str
) -> None:
    train("run", "trainer.checkpoint_at_end=false", "trainer.evaluate_every_steps=4", due)
    assert checkpoint.latest(tmp_path / "run").name == "step_00000008"


def test_a_budget_that_a_stopped_run_has_used_up_ends_it_with_an_evaluation(train: Train) -> None:
    train("run", "trainer.stop_after_steps=5")
    ended = train("run", "resume=here", "trainer.steps=5")
    assert (ended["status"], ended["best_val_loss"]) == ("finished", ended["final_val_loss"])


@pytest.mark.parametrize("budget", ["trainer.tokens=1100", "trainer.seconds=1e-9"])
def test_a_budget_that_its_last_step_went_beyond_ends_the_same_again(train: Train, budget: str) -> None:
    first = train("run", "trainer.steps=null", budget)
    again = train("run", "resume=here", "trainer.steps=null", budget)
    assert again["status"] == "finished"
    assert [again[key] for key in ("tokens", "train_seconds")] == [first[key] for key in ("tokens", "train_seconds")]
