"""A loss or gradient that is not finite: the run stops before it is saved, or skips and counts the step."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ramen.runs import checkpoint
from ramen.training.loop import Trainer
from ramen.training.loss import NonFiniteGuard, broken_weights

Train = Callable[..., dict[str, Any]]
SKIP = "trainer.nonfinite=skip"


class Scaled(torch.autograd.Function):
    """The value itself, with a gradient that is multiplied."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.factor, None


FAULTS: dict[str, Callable[[Tensor], Tensor]] = {
    "nan loss": lambda loss: loss * math.nan,
    "infinite loss": lambda loss: loss + math.inf,
    "nan gradient": lambda loss: Scaled.apply(loss, math.nan),  # type: ignore[no-untyped-call]
    "infinite gradient": lambda loss: Scaled.apply(loss, math.inf),  # type: ignore[no-untyped-call]
}

CASES = [*zip(FAULTS, ("1.0", "null", "null", "1.0"), strict=True), ("infinite gradient", "null")]


def plant(trainer: Trainer, fault: str, *steps: int) -> Trainer:
    """The same, with the training loss of these steps at fault."""

    def disturb(model: nn.Module, batch: Any, loss: Tensor) -> Tensor:
        return FAULTS[fault](loss) if model.training and trainer.progress.step + 1 in steps else loss

    trainer.model.register_forward_hook(disturb)
    return trainer


def same(left: Any, right: Any) -> bool:
    if isinstance(left, Tensor):
        return torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    return bool(left == right)


@pytest.mark.parametrize(("fault", "clip"), CASES)
def test_a_run_stops_with_the_step_and_keeps_its_last_good_checkpoint(
    make_trainer: Any, weights: Any, tmp_path: Path, fault: str, clip: str
) -> None:
    overrides = ("trainer.checkpoint_every_steps=1", "trainer.record_every_steps=4", f"trainer.grad_clip={clip}")
    trainer = plant(make_trainer("run", *overrides), fault, 5)
    status, reason = trainer.train()
    assert (status, trainer.progress.step) == ("diverged", 5)
    assert "loss or gradient norm was not finite at step 5" in reason
    assert checkpoint.latest(tmp_path / "run").name == "step_00000004"
    assert all(value.isfinite().all() for value in weights("run").values())


def test_without_a_checkpoint_in_between_the_next_record_finds_it(make_trainer: Any, tmp_path: Path) -> None:
    trainer = plant(make_trainer("run", "trainer.record_every_steps=6"), "nan gradient", 3)
    status, reason = trainer.train()
    assert (status, trainer.progress.step) == ("diverged", 6)
    assert "at step 3" in reason
    assert checkpoint.checkpoints(tmp_path / "run") == []


@pytest.mark.parametrize("word", ["checkpoint_every_steps=1", "steps=3", "stop_after_steps=3"])
def test_weights_that_overflow_are_not_saved(make_trainer: Any, tmp_path: Path, word: str) -> None:
    """Losses and gradients are finite, what the optimizer made of them is not: a row of a byte that is in no text."""
    trainer = make_trainer("run", "embedding=untied", "trainer.record_every_steps=8", f"trainer.{word}")
    model = trainer.model

    def overflow() -> None:
        if trainer.progress.step == 3:
            with torch.no_grad():
                model.embedding.weight[1, 0] = math.inf

    model.after_step = overflow
    status, reason = trainer.train()
    assert status == "diverged"
    assert "weights are not finite" in reason and "at step 3" in reason
    names = [path.name for path in checkpoint.checkpoints(tmp_path / "run")]
    assert names == (["step_00000002"] if word.startswith("checkpoint") else [])


@pytest.mark.parametrize(("fault", "clip"), CASES)
def test_a_skipped_step_leaves_weights_and_optimizers_as_they_were(
    make_trainer: Any, tmp_path: Path, fault: str, clip: str
) -> None:
    options = (SKIP, f"trainer.grad_clip={clip}", "trainer.record_every_steps=1", "trainer.checkpoint_every_steps=1")
    trainer = plant(make_trainer("run", *options, "trainer.steps=4", "trainer.keep_checkpoints=9"), fault, 3)
    assert trainer.train() == ("finished", None)
    assert (trainer.progress.skipped_steps, trainer.progress.step) == (1, 4)
    before, after, end = (tmp_path / "run" / "checkpoint" / f"step_0000000{step}" for step in (2, 3, 4))
    load = [load_file(path / checkpoint.WEIGHTS) for path in (before, after, end)]
    assert same(load[0], load[1]) and not same(load[1], load[2])
    states = [checkpoint.load_state(path)["optimizers"] for path in (before, after)]
    assert same(states[0]["optimizer"]["state"], states[1]["optimizer"]["state"])
    assert same(states[0]["auxiliary"]["state"], states[1]["auxiliary"]["state"])
    lines = trainer.logger.lines
    assert [line["skipped_steps"] for line in lines] == [0, 0, 1, 1]
    assert [line["train_loss"] is None for line in lines] == [False, False, True, False]
    assert [line["tokens"] for line in lines] == [256, 512, 768, 1024]


def test_a_mean_loss_is_of_the_steps_that_counted(make_trainer: Any) -> None:
    sound = make_trainer("all", "trainer.record_every_steps=1", "trainer.steps=2")
    skipped = plant(make_trainer("skipped", SKIP, "trainer.record_every_steps=2", "trainer.steps=2"), "nan loss", 2)
    sound.train(), skipped.train()
    assert skipped.logger.lines[0]["train_loss"] == sound.logger.lines[0]["train_loss"]


def test_too_many_skipped_steps_are_a_divergence(make_trainer: Any) -> None:
    overrides, steps = (SKIP, "trainer.record_every_steps=8"), (2, 4, 5)
    trainer = plant(make_trainer("run", *overrides, "trainer.most_skipped_steps=2"), "infinite gradient", *steps)
    status, reason = trainer.train()
    assert (status, trainer.progress.step, trainer.progress.skipped_steps) == ("diverged", 5, 3)
    assert "in 3 steps, the last of them step 5; allowed are trainer.most_skipped_steps=2" in reason
    bounded = plant(make_trainer("bounded", *overrides, "trainer.most_skipped_steps=3"), "infinite gradient", *steps)
    assert bounded.train() == ("finished", None)


def test_a_resumed_run_with_skipped_steps_is_the_uninterrupted_one(
    make_trainer: Any, weights: Any, tmp_path: Path
) -> None:
    def trainer(name: str, *overrides: str) -> Trainer:
        return plant(make_trainer(name, SKIP, *overrides), "nan gradient", 3, 6)

    whole, first, second = trainer("whole"), trainer("parts", "trainer.stop_after_steps=5"), trainer("parts")
    whole.train(), first.train()
    assert first.progress.skipped_steps == 1
    second.resume(checkpoint.latest(tmp_path / "parts"))
    second.train()
    assert second.progress.skipped_steps == whole.progress.skipped_steps == 2
    assert same(weights("whole"), weights("parts"))
    lines = [line for trainer in (first, second) for line in trainer.logger.lines]
    assert [line["train_loss"] for line in lines] == [line["train_loss"] for line in whole.logger.lines]


def test_a_sound_run_is_the_same_under_both_policies(train: Train, assert_bitwise: Any) -> None:
    train("stop")
    train("skip", SKIP)
    assert_bitwise("stop", "skip")


def test_stop_reads_nothing_from_the_device_and_skip_one_number() -> None:
    """Fake tensors have no values: whoever asks for one is told."""
    with FakeTensorMode():
        device = torch.device("cpu")
        loss, norm = torch.zeros(()), torch.zeros(())
        assert NonFiniteGuard("stop", device).should_step(1, loss, norm)
        with pytest.raises(Exception, match=r"aten\._local_scalar_dense"):
            NonFiniteGuard("skip", device).should_step(1, loss, norm)


def test_the_first_bad_step_is_told() -> None:
    guard = NonFiniteGuard("stop", torch.device("cpu"))
    for step, loss in ((1, 1.0), (2, math.nan), (3, 1.0), (4, math.inf)):
        guard.should_step(step, torch.tensor(loss), torch.tensor(1.0))
        assert (guard.problem() is None) == (step == 1)
    assert guard.problem() == "loss or gradient norm was not finite at step 2"


def test_broken_weights_are_named() -> None:
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(4)))
    assert broken_weights(model) is None
    with torch.no_grad():
        for layer in model:
            layer.weight[0, 0] = math.nan  # type: ignore[index]
    assert broken_weights(model) == "weights are not finite: 0.weight, 1.weight, 2.weight and 1 more"
