"""The loop: what a step does, what a record says, and that a run stopped and resumed is the run that was not."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ramen.errors import ConfigError
from ramen.registry import options
from ramen.trainer import checkpoint

Train = Callable[..., dict[str, Any]]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoint.latest(folder) / checkpoint.WEIGHTS)


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def timeless(made: list[dict[str, Any]]) -> list[dict[str, Any]]:
    clock = ("seconds", "tokens_per_second", "peak_memory")
    return [{key: value for key, value in record.items() if key not in clock} for record in made]


def test_micro_batches_do_not_change_the_result(train: Train, tmp_path: Path) -> None:
    train("whole")
    train("cut", "trainer.micro_batch_tokens=64")
    for name, value in weights(tmp_path / "whole").items():
        torch.testing.assert_close(weights(tmp_path / "cut")[name], value, rtol=5e-3, atol=5e-4)


@pytest.mark.parametrize(
    "optimizer",
    [
        name
        for name, option in options("optimizer").items()
        if option.target and not option.target.startswith("pytorch_optimizer")
    ],
)
def test_resumed_equals_uninterrupted_bitwise(train: Train, tmp_path: Path, optimizer: str) -> None:
    """Weights, records and data order, under a batch schedule, stopped between two records."""
    more = (f"optimizer={optimizer}", "schedule@batch_schedule=stepped", "trainer.evaluate_every_steps=4")
    if optimizer == "spectron":
        more = (*more, "linear=low_rank")
    train("whole", *more)
    assert train("parts", *more, "trainer.stop_after_steps=5")["status"] == "stopped"
    assert train("parts", *more, "resume=here")["status"] == "finished"
    for name, value in weights(tmp_path / "whole").items():
        assert torch.equal(weights(tmp_path / "parts")[name], value), name
    assert timeless(records(tmp_path / "parts")) == timeless(records(tmp_path / "whole"))


def test_a_seed_repeats_bitwise_and_another_one_does_not(train: Train, tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        train(name, f"seed={seed}")
    assert timeless(records(tmp_path / "a")) == timeless(records(tmp_path / "b"))
    assert records(tmp_path / "a")[0]["train_loss"] != records(tmp_path / "c")[0]["train_loss"]


def test_methods_start_from_the_same_weights_and_data(train: Train, tmp_path: Path) -> None:
    """The first record's loss is of the same weights on the same batch, whatever the optimizer."""
    losses = set()
    for name in ("adamw", "normuon", "bam"):
        train(name, f"optimizer={name}", "trainer.record_every_steps=1", "trainer.steps=1")
        losses.add(records(tmp_path / name)[0]["train_loss"])
    assert len(losses) == 1


def test_records_are_made_when_due_and_at_the_end(train: Train, tmp_path: Path) -> None:
    train("run", "trainer.steps=7", "trainer.record_every_steps=3", "trainer.evaluate_every_steps=4")
    made = records(tmp_path / "run")
    assert [record["step"] for record in made] == [3, 4, 6, 7]
    assert [record["val_loss"] is not None for record in made] == [False, True, False, True]
    assert all(record["tokens"] == 256 * record["step"] for record in made)
    assert all(math.isfinite(record["train_loss"]) and record["grad_norm"] > 0 for record in made)


def test_schedules_appear_in_the_records_as_set(train: Train, tmp_path: Path) -> None:
    train(
        "run",
        "optimizer=muon",
        "trainer.record_every_steps=1",
        "trainer.steps=4",
        "schedule.warmup_fraction=0.25",
        "schedule.cooldown_fraction=0.5",
    )
    made = records(tmp_path / "run")
    assert [record["lr"] / 0.02 for record in made] == pytest.approx([0.5, 1.0, 0.75, 0.25])
    assert [record["auxiliary_lr"] / made[1]["auxiliary_lr"] for record in made] == pytest.approx(
        [0.5, 1.0, 0.75, 0.25]
    )
    assert made[1]["momentum"] == pytest.approx(0.95)


def test_the_batch_schedule_grows_the_batch_by_whole_micro_batches(train: Train, tmp_path: Path) -> None:
    train("run", "schedule@batch_schedule=stepped", "trainer.record_every_steps=1", "trainer.steps=8")
    assert [record["batch_tokens"] // 256 for record in records(tmp_path / "run")] == [1, 1, 2, 2, 4, 4, 8, 8]


def test_budgets_of_tokens_and_seconds_end_the_run_with_a_full_decay(train: Train, tmp_path: Path) -> None:
    summary = train("tokens", "trainer.steps=null", "trainer.tokens=1024")
    assert (summary["steps"], summary["tokens"]) == (4, 1024)
    summary = train("seconds", "trainer.steps=null", "trainer.seconds=0.3", "trainer.record_every_steps=1")
    assert summary["train_seconds"] >= 0.3
    assert summary["status"] == "finished"
    assert records(tmp_path / "seconds")[-1]["lr"] < 0.5 * 0.02


def test_clipping_bounds_the_gradient_that_the_optimizer_sees(train: Train, tmp_path: Path) -> None:
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
        moves.append((weights(tmp_path / name)[key] - weights(tmp_path / f"{name}start")[key]).norm().item())
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


def test_a_longer_budget_may_continue_a_finished_run(train: Train, tmp_path: Path) -> None:
    train("run")
    summary = train("run", "resume=here", "trainer.steps=12")
    assert summary["steps"] == 12
    assert [record["step"] for record in records(tmp_path / "run")] == [2, 4, 6, 8, 10, 12]
    for less in ("trainer.steps=8", "trainer.tokens=2000", "trainer.seconds=1e-9"):  # its folder would tell of 12 steps
        with pytest.raises(ConfigError, match=f"{less.partition('=')[0]}: is less than .*step_00000012 has behind it"):
            train("run", "resume=here", "trainer.steps=12", less)


@pytest.mark.parametrize("budget", ["trainer.tokens=1100", "trainer.seconds=1e-9"])
def test_a_budget_that_its_last_step_went_beyond_ends_the_same_again(train: Train, budget: str) -> None:
    first = train("run", "trainer.steps=null", budget)
    again = train("run", "resume=here", "trainer.steps=null", budget)
    assert again["status"] == "finished"
    assert [again[key] for key in ("tokens", "train_seconds")] == [first[key] for key in ("tokens", "train_seconds")]
