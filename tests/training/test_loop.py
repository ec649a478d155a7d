"""The loop: what a step does, what a record says, and that a run stopped and resumed is the run that was not."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ramen.config.registry import options
from ramen.errors import ConfigError
from ramen.inference.load import open_run
from ramen.runs import checkpoint
from ramen.training import loop
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
    made = records("run")
    assert [record["step"] for record in made] == [3, 4, 6, 7]
    assert [record["val_loss"] is not None for record in made] == [False, True, False, True]
    assert all(record["tokens"] == 256 * record["step"] for record in made)
    assert all(math.isfinite(record["train_loss"]) and record["grad_norm"] > 0 for record in made)


def test_a_record_is_of_all_the_steps_since_the_one_before(train: Train, records: Any) -> None:
    """Its loss is the mean over their targets."""
    train("each", "trainer.record_every_steps=1")
    train("fourth", "trainer.record_every_steps=4")
    losses = [record["train_loss"] for record in records("each")]
    means = [sum(losses[:4]) / 4, sum(losses[4:]) / 4]
    assert [record["train_loss"] for record in records("fourth")] == pytest.approx(means, rel=1e-3)


def test_the_clock_of_training_sees_steps_alone(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step takes a second here, an evaluation a hundred, a checkpoint a thousand; a resumed run's clock goes on."""
    now = 0.0

    def slow(name: str, seconds: float) -> None:
        real = getattr(Trainer, name)

        def taking(*arguments: Any) -> Any:
            nonlocal now
            now += seconds
            return real(*arguments)

        monkeypatch.setattr(Trainer, name, taking)

    for name, seconds in (("_step", 1.0), ("_evaluate", 100.0), ("save", 1000.0)):
        slow(name, seconds)
    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: now))
    monkeypatch.setattr(loop.machine, "peak_rate", lambda device: 1e9)
    monkeypatch.setattr(loop.DeviceLoader, "epoch", 3)
    often = ("trainer.evaluate_every_steps=3", "trainer.checkpoint_every_steps=1")
    train("run", *often, "trainer.stop_after_steps=5")
    summary = train("run", *often, "resume=here")
    clocks = [summary[key] for key in ("train_seconds", "evaluation_seconds", "tokens_per_second")]
    assert clocks == [8.0, 300.0, 256.0]
    for line in map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()):
        assert (line["seconds"], line["tokens_per_second"], line["epoch"]) == (line["step"], 256.0, 3)
        assert line["mfu"] == pytest.approx(256 * summary["flops_per_token"] / 1e9)
    assert train("budget", *often, "trainer.steps=null", "trainer.seconds=5")["steps"] == 5


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
    made = records("run")
    assert [record["lr"] / 0.02 for record in made] == pytest.approx([0.5, 1.0, 0.75, 0.25])
    assert [record["auxiliary_lr"] / made[1]["auxiliary_lr"] for record in made] == pytest.approx(
        [0.5, 1.0, 0.75, 0.25]
    )
    assert made[1]["momentum"] == pytest.approx(0.95)


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


def test_a_validation_loss_that_is_no_number_ends_the_run_where_it_is_found(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainer, "_evaluate", lambda self: math.nan)
    summary = train("run", "trainer.evaluate_every_steps=3")
    assert (summary["status"], summary["steps"], summary["error"]) == ("diverged", 3, "validation loss nan at step 3")


def test_a_run_of_a_few_steps_may_end_above_its_beginning(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = train("one", "trainer.steps=1", "auxiliary.lr=1")
    assert one["final_val_loss"] > one["final_train_loss"] and one["status"] == "finished"
    monkeypatch.setattr(loop, "FEW_STEPS", 1)
    assert train("two", "trainer.steps=1", "auxiliary.lr=1")["status"] == "diverged"
    train("whole", "trainer.record_every_steps=8")  # the first record is a mean over all steps: not where the run began
    first = checkpoint.load_state(checkpoint.latest(tmp_path / "whole"))["progress"]["first_loss"]
    assert first == one["final_train_loss"]


def test_resuming_another_computation_names_what_differs(train: Train) -> None:
    train("run", "trainer.stop_after_steps=4")
    with pytest.raises(ConfigError) as told:
        train("run", "resume=here", "optimizer.lr=0.5", "seed=9")
    assert [problem.split(":")[0] for problem in told.value.problems] == ["optimizer.lr", "seed"]


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
