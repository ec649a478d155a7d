"""Every experiment: sizes are the source's, cards have room for theirs, and small stand-ins run."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from ramen.build.dry_run import dry_run
from ramen.build.objects import build_model, build_schedules, build_section
from ramen.config.kinds import KINDS, SECTIONS
from ramen.config.registry import CONF, options
from ramen.nn.gpt import DataSpec
from ramen.training.config import Progress

PREDECESSOR = (CONF.parent / "docs" / "from_ramengpt.md").read_text()
CARDS = {f"gpu_{size}": size for size in (8, 16, 24, 80)}
NARROW = (
    "model.dim=32",
    "model.heads=4",
    "model.layers=6",
    "trainer.batch_tokens=128",
    "trainer.micro_batch_tokens=128",
)


def text_of(config: dict[str, Any]) -> DataSpec:
    source = build_section(config, "data")
    return DataSpec(source.vocabulary, source.vocabulary - 1, source.sequence_length, source.document_mask)


def test_the_page_names_every_experiment() -> None:
    page = (CONF.parent / "docs" / "experiments.md").read_text()
    assert [name for name in options("experiment") if f"`{name}`" not in page] == []


def test_the_predecessors_keys_have_counterparts_that_exist() -> None:
    """Every `section.key` of the right column is a key of some option, every `group=option` an option."""
    rows = [line.split("|") for line in PREDECESSOR.splitlines() if line.startswith("| ")]
    spans = [span for row in rows for span in re.findall(r"`([^`]+)`", row[-2])]
    keys = {key for span in spans for key in re.findall(rf"\b({'|'.join(SECTIONS)})\.(\w+)", span)}
    choices = {choice for span in spans for choice in re.findall(r"(\w+)=(\w+)", span) if choice[0] in KINDS}
    assert len(keys) > 70 and len(choices) > 10
    texts = {
        section: "".join(path.read_text() for path in (CONF / kind).glob("*.yaml"))
        for section, kind in SECTIONS.items()
    }
    gone = [f"{section}.{key}" for section, key in keys if not re.search(rf"\b{key}: ", texts[section])]
    assert gone + [f"{kind}={name}" for kind, name in choices if name not in options(kind)] == []


@pytest.mark.parametrize("name", CARDS)
def test_a_cards_experiment_has_room_on_it(compose: Callable[..., dict[str, Any]], name: str) -> None:
    """At least a tenth is left for the context and what a kernel takes, and at least half is used."""
    config = compose(f"experiment={name}")
    text = text_of(config)
    peak = sum(dry_run(config, text, torch.bfloat16, "cuda").costs["memory"].values())
    assert 0.5 * CARDS[name] < peak / 1e9 < 0.9 * CARDS[name]
    assert (config["compile"], config["precision"]) == ("on", "bf16")


@pytest.mark.parametrize(
    ("name", "embeddings", "others"),
    [
        # tables V D: one tied 50,304 x 256 and its split head, three of values; blocks 12 D^2, gates, lambdas, smear, skip, backout
        ("baseline", 2 * 50304 * 256 + 3 * 50257 * 256, 8 * 12 * 256**2 + 8 * 4 * 12 + 5 * 4 * 12 + 2 * 8 + 2 * 12 + 3),
        ("gpt2_124m", 50304 * 768, 12 * 12 * 768**2),
        ("track3", 2 * 50304 * 768, 12 * 12 * 768**2),
        (
            "nanogpt_char_cpu",
            (128 + 64) * 128,
            4 * 12 * 128**2 + 9 * 128,
        ),  # characters and BOS on 128 rows, 64 positions
    ],
)
def test_sizes_are_those_of_the_source(
    compose: Callable[..., dict[str, Any]], name: str, embeddings: int, others: int
) -> None:
    config = compose(f"experiment={name}")
    with FakeTensorMode():
        model: Any = build_model(config, text_of(config))
        assert model.embedding_parameters() == embeddings
        assert sum(value.numel() for value in model.parameters()) == embeddings + others


def test_the_baseline_goes_through_the_predecessors_stages(compose: Callable[..., dict[str, Any]]) -> None:
    """Batches of 1, 2, 4, 8 units from steps 80, 160, 240; the window from 320; the split at 378."""
    config = compose("experiment=baseline")
    schedules = build_schedules(config)
    batch, windows = schedules.batch, schedules.windows
    budget = build_section(config, "trainer", 512).budget
    assert budget.steps == 420
    at = [budget.behind(Progress(step)) for step in range(420)]
    assert [sum(batch(p) == units for p in at) for units in (1, 2, 4, 8)] == [80, 80, 80, 180]
    assert [windows(p)[0] for p in at] == [384] * 320 + [768] * 100
    assert sum(p < config["embedding"]["split_at"] for p in at) == 378
    assert sum(batch(p) for p in at) * 32768 == 65_536_000  # tokens of the run


@pytest.mark.parametrize("name", ["baseline", "gpt2_124m", "track3", "gpu_8", "nanogpt_char_cpu"])
def test_a_small_stand_in_runs(
    compose: Callable[..., dict[str, Any]], train_small: Callable[..., dict[str, Any]], tmp_path: Path, name: str
) -> None:
    """The same parts and schedules on byte tokens; six steps reach every stage, the last of them too."""
    words = (f"experiment={name}", "data=shakespeare", "compile=off", "trainer.tokens=null")
    summary = train_small(tmp_path / "run", *words, *NARROW)
    assert summary["status"] == "finished" and summary["steps"] == 6
