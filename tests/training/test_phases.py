"""Phases of a run: windows, batch, split and freeze change when they should, show in the records, and survive a resume."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ramen.build.objects import build_groups, build_optimizers, build_schedules, build_section
from ramen.errors import ConfigError
from ramen.inference.load import open_run
from ramen.runs import checkpoint
from ramen.training.phases import RunPhases

Train = Callable[..., dict[str, Any]]
EVERYTHING = (
    "position=yarn", "position.original_tokens=null", "embedding=split", "embedding.split_at=0.6", "stream=modded",
    "model.layers=3", "attention.pattern=SSL", "attention.long_window_tokens=16", "attention.short_window_tokens=4",
    "schedule@long_window_schedule=stepped", "long_window_schedule.values=[1.0,2.0,4.0]",
    "long_window_schedule.boundaries=[0.25,0.75]",
    "schedule@short_window_schedule=stepped", "short_window_schedule.values=[1.0,2.0]",
    "short_window_schedule.boundaries=[0.5]",
    "schedule@batch_schedule=stepped", "batch_schedule.values=[1.0,2.0]", "batch_schedule.boundaries=[0.5]",
    "trainer.freeze_scalar_steps=2", "trainer.batch_lr_power=0.5", "trainer.record_every_steps=1",
)  # fmt: skip


@pytest.mark.parametrize("stop", [3, 5, 6])
def test_resumed_in_any_stage_equals_uninterrupted_bitwise(
    train: Train, weights: Any, assert_bitwise: Any, stop: int
) -> None:
    train("whole", *EVERYTHING)
    assert train("parts", *EVERYTHING, f"trainer.stop_after_steps={stop}")["status"] == "stopped"
    assert train("parts", *EVERYTHING, "resume=here")["status"] == "finished"
    assert_bitwise("whole", "parts")
    assert not torch.equal(weights("whole")["embedding.weight"], weights("whole")["embedding.head_weight"])


def test_records_show_every_change(train: Train, records: Any) -> None:
    train("run", *EVERYTHING, "schedule=constant")
    lines = records("run")
    lengths = [(int(r["long_window_tokens"]), int(r["short_window_tokens"])) for r in lines]
    assert lengths[0] == (16, 4) and lengths[-1] == (64, 8) and (32, 4) in lengths and sorted(lengths) == lengths
    split = [r["embedding_split"] for r in lines]
    assert split == sorted(split) and {0, 1} == set(split)
    ratio = lines[-1]["lr"] / lines[0]["lr"]
    assert ratio == pytest.approx(2**0.5) and lines[-1]["batch_tokens"] == 2 * lines[0]["batch_tokens"]
    assert lines[0]["scalars_frozen"] == 0 and 1 in [r["scalars_frozen"] for r in lines]


def test_scalars_of_a_run_rest_in_the_steps_that_say_so(train: Train, records: Any, tmp_path: Path) -> None:
    train("run", *EVERYTHING, "trainer.checkpoint_every_steps=1", "trainer.keep_checkpoints=8")
    values = [
        load_file(path / checkpoint.WEIGHTS)["stream.residual"] for path in checkpoint.checkpoints(tmp_path / "run")
    ]
    rested = [torch.equal(before, after) for before, after in pairwise(values)]
    assert rested == [record["scalars_frozen"] == 1 for record in records("run")[1:]]
    assert any(rested) and not all(rested)


def test_a_trained_run_opens_with_its_last_windows_and_its_split(train: Train, tmp_path: Path) -> None:
    train("run", *EVERYTHING)
    model: Any = open_run(tmp_path / "run").model
    assert model.windows == (64, 8) and model.embedding.is_split and model.position.gain > 1


def phases_of(compose: Any, build_gpt: Any, *overrides: str) -> RunPhases:
    """Of a job of four rows a batch, whose scalars rest for three steps."""
    config = compose("trainer.batch_tokens=128", "trainer.freeze_scalar_steps=3", *overrides)
    model = build_gpt(*overrides)
    optimizers = build_optimizers(config, build_groups(config, model))
    trainer = build_section(config, "trainer", model.data.sequence_length)
    return RunPhases(model, optimizers, build_schedules(config), trainer)


def test_scalars_keep_still_for_exactly_the_steps_asked_for(compose: Any, build_gpt: Any, rows: Any) -> None:
    """Values and optimizer state, from the step of the change on."""
    phases = phases_of(
        compose, build_gpt, "stream=modded", "schedule@batch_schedule=stepped", "batch_schedule.values=[1.0,2.0]",
        "batch_schedule.boundaries=[0.5]",
    )  # fmt: skip
    model, scalar = phases.model, phases.model.stream.residual
    moved = []
    for step in range(10):
        before = scalar.detach().clone()
        phases.start_phase(step / 10)
        tokens = rows((12,), seed=step)
        model(tokens, tokens).backward()
        phases.freeze_scalars()
        phases.optimizers.step()
        model.zero_grad()
        moved.append(not torch.equal(before, scalar))
    assert moved == [True] * 5 + [False] * 3 + [True] * 2
    state = phases.optimizers.by_name["auxiliary"].state[scalar]
    assert state["step"] == 7


def test_the_split_copies_the_optimizers_state(compose: Any, build_gpt: Any, rows: Any) -> None:
    phases = phases_of(compose, build_gpt, "embedding=split", "embedding.split_at=0.5")
    embedding, tokens = phases.model.embedding, rows((12,))
    phases.start_phase(0.0)
    phases.model(tokens, tokens).backward()
    phases.optimizers.step()
    phases.model.zero_grad()
    phases.start_phase(0.5)
    state = phases.optimizers.by_name["auxiliary"].state
    assert state[embedding.weight].keys() == state[embedding.head_weight].keys() != set()
    for key, value in state[embedding.weight].items():
        copied = state[embedding.head_weight][key]
        assert torch.equal(copied, value) and copied.data_ptr() != value.data_ptr()
    # With the same gradient both move alike; the head's learning rate is the table's, not scheduled twice.
    for value in (embedding.weight, embedding.head_weight):
        value.grad = torch.ones_like(value)
    phases.optimizers.schedule(0.5, 0.25)
    phases.optimizers.step()
    assert torch.equal(embedding.weight, embedding.head_weight)


def test_every_stage_is_visited_before_the_clock_and_nothing_is_left_behind(compose: Any, build_gpt: Any) -> None:
    phases = phases_of(
        compose, build_gpt, "embedding=split", "attention.long_window_tokens=8", "schedule@long_window_schedule=stepped",
        "long_window_schedule.values=[1.0,2.0]", "long_window_schedule.boundaries=[0.25]",
    )  # fmt: skip
    seen = [(phases.model.windows[0], phases.model.embedding.is_split) for _ in phases.all_phases(0.0)]
    assert seen == [(8, False), (16, False), (16, True)]
    assert phases.model.windows == (8, None) and not phases.model.embedding.is_split
    assert not phases.model.embedding.saved_is_split


YARN = (
    "position=yarn", "position.original_tokens=8", "attention.long_window_tokens=16",
    "schedule@long_window_schedule=stepped", "long_window_schedule.values=[0.5,2.0,4.0]",
    "long_window_schedule.boundaries=[0.25,0.75]",
)  # fmt: skip


def test_a_position_goes_from_its_own_window_to_the_first_steps_and_not_by_way_of_the_configured_one(
    compose: Any, build_gpt: Any
) -> None:
    phases = phases_of(compose, build_gpt, *YARN)
    assert phases.start_phase(0.0)[1]["long_window_tokens"] == 8
    assert phases.model.position.gain == 1.0
    assert torch.equal(phases.model.position.frequencies, phases.model.position.unscaled)


@pytest.mark.parametrize("resumed_at", [0.0, 0.5])
def test_graphs_are_made_before_the_clock_with_the_gains_of_the_run(
    compose: Any, build_gpt: Any, resumed_at: float
) -> None:
    """A gain is a number in a compiled or recorded graph: one that comes later would be compiled late, or be missed."""
    phases = phases_of(compose, build_gpt, *YARN)
    for progress in (0.0, 0.25) if resumed_at else ():
        phases.start_phase(progress)
    position, windows = phases.model.position, phases.model.windows
    before = position.gain, position.frequencies.clone(), position.table.clone()
    visited = [phases.graph_key() for _ in phases.all_phases(resumed_at)]
    assert (position.gain, phases.model.windows) == (before[0], windows)
    assert torch.equal(position.frequencies, before[1]) and torch.equal(position.table, before[2])
    entered = []
    for progress in (0.0, 0.25, 0.5, 0.75):
        if progress >= resumed_at:
            phases.start_phase(progress)
            entered += [phases.graph_key()] if phases.graph_key() not in entered else []
    assert visited == entered and len(visited) == (2 if resumed_at else 3)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("attention.long_window_tokens=2_000_000_000",), "below one token or above 1,073,741,824, got 1.0 to 1.0"),
        (
            ("attention.pattern=SL", "attention.long_window_tokens=8", "attention.short_window_tokens=5",
             "schedule@short_window_schedule=stepped", "short_window_schedule.values=[1.0,2.0]",
             "short_window_schedule.boundaries=[0.5]"),
            "short_window_schedule: takes the short window above the long one, got 10 > 8",
        ),
        (
            ("position=yarn", "position.original_tokens=100_000"),
            "position.sharpening: a window that shrinks from 100000 to 32 tokens would multiply logits by -0.61, got 0.2",
        ),
        (("schedule@long_window_schedule=stepped",), "long_window_schedule: needs attention.long_window_tokens, got null"),
        (
            ("attention.long_window_tokens=2", "schedule@long_window_schedule=stepped", "long_window_schedule.values=[1.0,0.1]",
             "long_window_schedule.boundaries=[0.5]"),
            "takes attention.long_window_tokens = 2 below one token",
        ),
        (("position=yarn", "position.original_tokens=null"), "there are none: choose position=half_rope"),
    ],
)  # fmt: skip
def test_refuses_phases_that_cannot_be(dry: Any, compose: Any, overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dry(compose(*overrides))


def test_the_share_of_further_tokens_follows_its_schedule(train: Train, records: Any) -> None:
    """Read in the middle of a step, as every schedule that does not change shapes; it is part of the training loss."""
    train(
        "run", "model.mtp_weights=[0.5,0.25]", "schedule@mtp_schedule=piecewise", "mtp_schedule.multipliers=[1.0,0.0]",
        "mtp_schedule.fractions=[0.0,0.5]", "trainer.steps=4", "trainer.record_every_steps=1",
    )  # fmt: skip
    lines = records("run")
    assert [line["mtp_share"] for line in lines] == [0.75, 0.25, 0.0, 0.0]
    assert lines[0]["train_loss"] > 1.4 * lines[3]["train_loss"]


def test_a_schedule_of_further_tokens_without_any_is_refused(compose: Any, build_gpt: Any, dry: Any) -> None:
    with pytest.raises(ConfigError, match=r"mtp_schedule: needs model.mtp_weights, got \[\]"):
        dry(compose("schedule@mtp_schedule=linear"))
    with pytest.raises(ConfigError, match=r"model.mtp_weights must be > 0"):
        build_gpt("model.mtp_weights=[0.5,0.0]")
