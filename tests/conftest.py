"""What all tests share.

Fixtures hand out functions, because test modules cannot import one another under importlib mode.
"""

import copy
import functools
import operator
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import settings

from ramen import assemble
from ramen.command import plain
from ramen.model.gpt import GPT, Text
from ramen.ops.parameter import generator, initialise
from ramen.registry import CONF
from ramen.run import Command, run

torch.set_num_threads(1)
settings.register_profile("ramen", deadline=None)
settings.load_profile("ramen")

PARSER = OverridesParser.create()
TINY = ("model.layers=2", "model.dim=16", "model.heads=2")


@functools.cache
def _composed(overrides: tuple[str, ...]) -> dict[str, Any]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return plain(hydra_compose("config", list(overrides)))


def _compose(*overrides: str) -> dict[str, Any]:
    # Hydra takes a fifth of a second to compose: values (`section.key=value`) are set afterwards, so that few compositions
    # serve all tests. A mapping, which Hydra would merge, and all that is not a plain value is left to it.
    values = [word for word in overrides if re.match(r"[\w.]+\.\w+=[^{?]*$", word)]
    config = copy.deepcopy(_composed(tuple(word for word in overrides if word not in values)))
    for word in values:
        override = PARSER.parse_override(word)
        *sections, key = override.key_or_group.split(".")
        node = functools.reduce(operator.getitem, sections, config)
        if key not in node:
            raise KeyError(f"{word}: no such key")
        node[key] = override.value()
    return config


@pytest.fixture(scope="session")
def compose() -> Callable[..., dict[str, Any]]:
    """compose(*overrides): the plain config of a command line."""
    return _compose


def _option(kind: str, name: str, *overrides: str) -> dict[str, Any]:
    text = (CONF / kind / f"{name}.yaml").read_text()
    missing = [f"++{kind}.{key}=something" for key in re.findall(r"^(\w+): \?\?\?", text, re.MULTILINE)]
    needs = re.findall(r"needs (\w+=\w+)", text.partition("\n")[0])
    return _compose(f"{kind}={name}", *needs, *missing, *overrides)


@pytest.fixture(scope="session")
def option() -> Callable[..., dict[str, Any]]:
    """option(kind, name, *overrides): the plain config with this option chosen, and what it demands filled in.

    Demanded are keys without a value (`???`) and options that its first line `needs` (`needs linear=low_rank`).
    """
    return _option


def _build_gpt(*overrides: str, vocabulary: int = 37, length: int = 32, seed: int = 0, noise: float = 0.0) -> GPT:
    model: Any = assemble.model(_compose(*TINY, *overrides), Text(vocabulary, BOS, length))
    initialise(model, seed)
    if noise and hasattr(model.embedding, "split"):
        model.embedding.split()  # the middle of training: every parameter is in use
    with torch.no_grad():
        for name, value in model.named_parameters() if noise else ():
            value += noise * torch.randn(value.shape, generator=generator(seed, f"noise of {name}"))
    model.after_step()
    return model


BOS = 0


@pytest.fixture(scope="session")
def build_gpt() -> Callable[..., GPT]:
    """build_gpt(*overrides, vocabulary=, length=, seed=, noise=): a tiny GPT whose token 0 is BOS.

    `noise` is the standard deviation of what is added to every parameter, so that nothing stays at zero.
    """
    return _build_gpt


def _rows(*documents: tuple[int, ...], vocabulary: int = 37, seed: int = 0) -> torch.Tensor:
    made = []
    random = torch.Generator().manual_seed(seed)
    for lengths in documents:
        row = torch.randint(1, vocabulary, (sum(lengths),), generator=random)
        starts = torch.tensor((0, *lengths[:-1])).cumsum(0)
        row[starts] = BOS
        made.append(row)
    return torch.stack(made)


@pytest.fixture(scope="session")
def rows() -> Callable[..., torch.Tensor]:
    """rows((5, 7), (12,), vocabulary=, seed=): token rows of random documents of these lengths, each opened by BOS."""
    return _rows


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small run of byte tokens that has ended: six steps, one checkpoint."""
    folder = tmp_path_factory.mktemp("trained")
    words = (
        "data.tokenizer=byte", "data.sequence_length=64", "data.validation_tokens=1500", "device=cpu", "precision=fp32",
        "threads=1", "trainer.batch_tokens=256", "trainer.micro_batch_tokens=256", "trainer.steps=6",
    )  # fmt: skip
    config = _compose(*TINY, *words)
    config["data"]["folder"] = str(folder / "data")
    run(Command(config, folder / "run", {"optimizer": "normuon", "mlp": "default"}, [], None))
    return folder / "run"


def _dry(config: dict[str, Any]) -> assemble.Sketch:
    return assemble.sketch(config, Text(37, BOS, 32), 2, torch.float32)


@pytest.fixture(scope="session")
def dry() -> Callable[..., assemble.Sketch]:
    """dry(config): the sketch of a run on a tiny text."""
    return _dry
