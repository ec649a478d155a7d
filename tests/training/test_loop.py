"""The loop: what a step does, what a record says, and that a run stopped and resumed is the run that was not."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ramen import device as machine
from ramen.config.registry import options
from ramen.data.batches import IGNORED
from ramen.errors import ConfigError
from ramen.inference.load import open_run
from ramen.runs import checkpoint
from ramen.training.loop import Trainer

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
    lines = records("run")
    assert [record["step"] for record in lines] == [3, 4, 6, 7]
    assert [record["val_loss"] is not None for record in lines] == [False, True, False, True]
    assert all(record["tokens"] == 256 * record["step"] for record in lines)
    assert all(math.isfinite(record["train_loss"]) and record["grad_norm"] > 0 for record in lines)


def test_a_record_is_of_all_the_steps_since_the_one_before(train: Train, records: Any) -> None:
    """Its loss is the mean over their targets."""
    train("each", "trainer.record_every_steps=1")
    train("fourth", "trainer.record_every_steps=4")
    losses = [record["train_loss"] for record in records("each")]
    means = [sum(losses[:4]) / 4, sum(losses[4:]) / 4]
    assert [record["train_loss"] for record in records("fourth")] == pytest.approx(means, rel=1e-3)


def test_the_clock_of_training_sees_steps_alone(
    make_trainer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step takes a second here, an evaluation sixty, a checkpoint a thousand; a resumed run's clock goes on."""
    now = 0.0

    def take(seconds: float) -> None:
        nonlocal now
        now += seconds

    def slow(*overrides: str) -> Trainer:
        often = ("trainer.evaluate_every_steps=3", "trainer.checkpoint_every_steps=1")
        trainer = make_trainer("run", *often, *overrides, clock=lambda: now)
        parts = math.ceil(len(trainer.validation.tokens) / trainer.config.micro_rows)
        model = trainer.model
        model.register_forward_hook(lambda model, batch, loss: take(1.0 if model.training else 60 / parts))
        model.register_state_dict_pre_hook(lambda *more: take(1000.0))
        return trainer

    monkeypatch.setattr(machine, "peak_rate", lambda device: 1e9)
    first, second = slow("trainer.stop_after_steps=5"), slow()
    first.train()
    second.resume(checkpoint.latest(tmp_path / "run"))
    second.train()
    assert (second.progress.seconds, second.progress.evaluation_seconds) == (8.0, pytest.approx(180.0))
    for line in [*first.logger.lines, *second.logger.lines]:
        assert (line["seconds"], line["tokens_per_second"]) == (line["step"], 256.0)
        assert line["mfu"] == pytest.approx(second.progress.flops / 8 / 1e9)
    budget = slow("trainer.steps=null", "trainer.seconds=5", "trainer.record_every_steps=1")
    budget.train()
    assert budget.progress.step == 5
    rates = [line["lr"] for line in budget.logger.lines]  # a trial has told how long the first step will be
    assert rates == [line["lr"] for line in five_steps(make_trainer)]


def five_steps(make_trainer: Any) -> list[dict[str, Any]]:
    trainer = make_trainer("five", "trainer.steps=5", "trainer.record_every_steps=1")
    trainer.train()
    return trainer.logger.lines


def test_mfu_and_flops_follow_the_windows(make_trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six a weight, and 12 for each dimension of each key that a query sees."""
    monkeypatch.setattr(machine, "peak_rate", lambda device: 1e9)
    trainer = make_trainer(
        "run", "trainer.steps=4", "trainer.record_every_steps=1", "attention.long_window_tokens=32", "model.layers=1",
        "schedule@long_window_schedule=stepped", "long_window_schedule.values=[0.25,1.0]",
        "long_window_schedule.boundaries=[0.5]",
    )  # fmt: skip
    trainer.train()
    keys = {window: sum(min(query, window) for query in range(1, 65)) / 64 for window in (8, 32)}
    weights = 12 * 16 * 16 + trainer.model.embedding.head().numel()
    expected = [6 * weights + 12 * 16 * keys[window] for window in (8, 8, 32, 32)]
    assert [line["mfu"] * 1e9 / line["tokens_per_second"] for line in trainer.logger.lines] == pytest.approx(expected)
    assert trainer.progress.flops / trainer.progress.tokens == pytest.approx(sum(expected) / 4)


def test_phases_change_at_the_same_step_under_every_budget(train: Train, records: Any) -> None:
    """At what was trained: two of four steps, half of the tokens."""
    overrides = ("schedule@batch_schedule=stepped", "batch_schedule={values: [1.0, 2.0], boundaries: [0.5]}")
    train("steps", *overrides, "trainer.steps=4", "trainer.record_every_steps=1")
    train("tokens", *overrides, "trainer.steps=null", "trainer.tokens=1024", "trainer.record_every_steps=1")
    assert [line["batch_tokens"] for line in records("steps")] == [256, 256, 512, 512]
    assert [line["batch_tokens"] for line in records("tokens")] == [256, 256, 512]


def test_what_a_part_promises_of_its_weights_holds_after_a_step(train: Train, weights: Any, tmp_path: Path) -> None:
    """nff's rows and columns keep to the sphere, wherever the optimizer takes them."""
    train("run", "mlp=nff", "trainer.steps=2")
    model: Any = open_run(tmp_path / "run").model
    model.after_step()
    torch.testing.assert_close(model.state_dict(), weights("run"))


def test_schedules_appear_in_the_records_as_set(train: Train, records: Any) -> None:
    train(
        "run",
        "optimizer=muon",
        "trainer.record_every_steps=1",
        "trainer.steps=4",
        "schedule.warmup_fraction=0.25",
        "schedule.cooldown_fraction=0.5",
    )
    lines = records("run")
    assert [record["lr"] / 0.02 for record in lines] == pytest.approx([0.5, 1.0, 0.75, 0.25])
    assert [record["auxiliary_lr"] / lines[1]["auxiliary_lr"] for record in lines] == pytest.approx(
        [0.5, 1.0, 0.75, 0.25]
    )
    assert lines[1]["momentum"] == pytest.approx(0.95)


def test_the_batch_schedule_grows_the_batch_by_whole_micro_batches(train: Train, records: Any) -> None:
    train("run", "schedule@batch_schedule=stepped", "trainer.record_every_steps=1", "trainer.steps=8")
    assert [record["batch_tokens"] // 256 for record in records("run")] == [1, 1, 2, 2, 4, 4, 8, 8]


def test_budgets_of_tokens_and_seconds_end_the_run_with_a_full_decay(
    train: Train, records: Any, assert_bitwise: Any
) -> None:
    summary = train("tokens", "trainer.steps=null", "trainer.tokens=1024")
    assert (summary["steps"], summary["tokens"]) == (4, 1024)
    train("steps", "trainer.steps=4")
    assert_bitwise("tokens", "steps")
    summary = train("seconds", "trainer.steps=null", "trainer.seconds=0.3", "trainer.record_every_steps=1")
    assert summary["train_seconds"] >= 0.3
    assert summary["status"] == "finished"
    assert records("seconds")[-1]["lr"] < 0.5 * 0.02


def test_clipping_bounds_the_gradient_that_the_optimizer_sees(train: Train, weights: Any, records: Any) -> None:
    """AdamW with a huge eps steps in proportion to the gradient: clipped a hundred times tighter, it moves a hundred times less."""
    moves = []
    for clip in (1e-2, 1e-4, "null"):
        name = f"clip{clip}"
        options = (
            "optimizer=adamw",
            "optimizer.eps=1e6",
            "optimizer.lr=1e6",
            "optimizer.weight_decay=0",
            "auxiliary.eps=1e6",
            "embedding.init_std=0.5",
            "auxiliary.lr=1e6",
        )
        train(name, *options, f"trainer.grad_clip={clip}", "trainer.steps=1", "schedule=constant")
        train(f"{name}start", *options, "optimizer.lr=0", "auxiliary.lr=0", "trainer.steps=1", "schedule=constant")
        key = "embedding.weight"
        moves.append((weights(name)[key] - weights(f"{name}start")[key]).norm().item())
    assert moves[0] / moves[1] == pytest.approx(100, rel=0.05)
    norm = records("clipnull")[0]["grad_norm"]  # before clipping, and large enough to be told from a bound of one
    assert norm > 1, norm
    assert moves[2] / moves[0] == pytest.approx(norm / 1e-2, rel=0.05)


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


def evaluates_to(trainer: Trainer, loss: Callable[[], float]) -> Trainer:
    """The same, whose validation loss is that."""

    def replace(model: torch.nn.Module, batch: Any, sum_of_losses: torch.Tensor) -> torch.Tensor:
        counted = (batch[1] != IGNORED).sum()
        return sum_of_losses if model.training else loss() * counted

    trainer.model.register_forward_hook(replace)
    return trainer


def test_a_validation_loss_that_is_no_number_ends_the_run_where_it_is_found(make_trainer: Any) -> None:
    trainer = evaluates_to(make_trainer("run", "trainer.evaluate_every_steps=3"), lambda: math.nan)
    assert trainer.train() == ("diverged", "validation loss nan at step 3")
    assert trainer.progress.step == 3


@pytest.mark.parametrize(("steps", "status"), [(1, "finished"), (49, "finished"), (50, "diverged")])
def test_a_run_of_a_few_steps_may_end_above_its_beginning(make_trainer: Any, steps: int, status: str) -> None:
    trainer = make_trainer("run", f"trainer.steps={steps}", "trainer.batch_tokens=64", "trainer.micro_batch_tokens=64")
    evaluates_to(trainer, lambda: trainer.progress.first_loss + 0.5)
    assert trainer.train()[0] == status


def test_resuming_another_computation_names_what_differs(train: Train) -> None:
    train("run", "trainer.stop_after_steps=4")
    with pytest.raises(ConfigError) as raised:
        train("run", "resume=here", "optimizer.lr=0.5", "seed=9")
    assert [problem.split(":")[0] for problem in raised.value.problems] == ["optimizer.lr", "seed"]


def test_a_longer_budget_may_continue_a_finished_run(train: Train, records: Any) -> None:
    assert train("run", "trainer.stop_after_steps=8")["status"] == "finished"
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


def test_a_checkpoint_has_the_validation_loss_of_its_own_step_or_none(train: Train, tmp_path: Path) -> None:
    often = ("trainer.checkpoint_every_steps=1", "trainer.keep_checkpoints=8")
    train("run", *often, "trainer.evaluate_every_steps=3")
    for path in checkpoint.checkpoints(tmp_path / "run"):
        loss = json.loads((path / checkpoint.META).read_text())["val_loss"]
        assert (loss is not None) == (checkpoint.step_of(path) in (3, 6, 8))


def test_a_budget_that_a_stopped_run_has_used_up_ends_it_with_an_evaluation(train: Train) -> None:
    train("run", "trainer.stop_after_steps=5")
    ended = train("run", "resume=here", "trainer.steps=5")
    assert (ended["status"], ended["best_val_loss"]) == ("finished", ended["final_val_loss"])


@pytest.mark.parametrize("budget", ["trainer.tokens=1100", "trainer.seconds=1e-9"])
def test_a_budget_that_its_last_step_went_beyond_ends_the_same_again(train: Train, tmp_path: Path, budget: str) -> None:
    first = train("run", "trainer.steps=null", budget)
    written = checkpoint.latest(tmp_path / "run").stat().st_ino
    again = train("run", "resume=here", "trainer.steps=null", budget)
    assert checkpoint.latest(tmp_path / "run").stat().st_ino == written  # and is not written again
    assert again["status"] == "finished"
    assert [again[key] for key in ("tokens", "train_seconds")] == [first[key] for key in ("tokens", "train_seconds")]
