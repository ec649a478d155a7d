"""What all tests share.

Fixtures hand out functions, because test modules cannot import one another under importlib mode.
"""

import copy
import functools
import json
import operator
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import settings
from safetensors.torch import load_file
from torch import Tensor

from ramen import kernels
from ramen.build.dry_run import DryRun, dry_run
from ramen.build.objects import build_model
from ramen.build.run import Command, build_trainer, run, validate
from ramen.config.compose import compose as compose_words
from ramen.config.registry import CONF, factory
from ramen.data.shard import header_of
from ramen.errors import ConfigError
from ramen.logger.base import Logger
from ramen.nn.contracts import RestoresWeights
from ramen.nn.gpt import GPT, DataSpec
from ramen.nn.parameter import generator, initialise
from ramen.runs import checkpoint
from ramen.training.loop import Trainer

torch.set_num_threads(1)
kernels.register()
settings.register_profile("ramen", deadline=None)
settings.load_profile("ramen")

PARSER = OverridesParser.create()
TINY = ("model.layers=2", "model.dim=16", "model.heads=2")
SMALL = (
    *TINY, "data.tokenizer=byte", "data.sequence_length=64", "data.validation_tokens=1500", "device=cpu", "precision=fp32",
    "threads=1", "trainer.batch_tokens=256", "trainer.micro_batch_tokens=256", "trainer.record_every_steps=1", "trainer.steps=6",
)  # fmt: skip


@functools.cache
def _composed(overrides: tuple[str, ...]) -> dict[str, Any]:
    return compose_words(overrides)


def _compose(*overrides: str) -> dict[str, Any]:
    # Hydra takes a fifth of a second to compose: values (`section.key=value`) are set afterwards, so that few compositions
    # serve all tests. A mapping, which Hydra would merge, and all that is not a plain value is left to it.
    values = [word for word in overrides if re.match(r"[\w.]+\.\w+=[^{?]*$", word)]
    try:
        config = copy.deepcopy(_composed(tuple(word for word in overrides if word not in values)))
    except ConfigError:  # a key that has no value of its own
        return copy.deepcopy(_composed(overrides))
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
    model: Any = build_model(_compose(*TINY, *overrides), DataSpec(vocabulary, BOS, length))
    if noise and model.embedding.split_at:
        model.embedding.split()  # the middle of training: every parameter is in use
    return _filled(model, seed, noise)


def _filled(module: Any, seed: int, noise: float) -> Any:
    initialise(module, seed)
    with torch.no_grad():
        for name, value in module.named_parameters() if noise else ():
            value += noise * torch.randn(value.shape, generator=generator(seed, f"noise of {name}"))
    if isinstance(module, RestoresWeights):
        module.after_step()
    return module


@pytest.fixture(scope="session")
def component() -> Callable[..., Any]:
    """component(kind, name, *runtime, noise=, seed=, **changes): an option of mlp, norm or residual; noise is for parameters."""

    def made(kind: str, name: str, *runtime: Any, noise: float = 0.0, seed: int = 0, **changes: Any) -> torch.nn.Module:
        config = _compose(f"{kind}={name}", "linear=dense")
        linear = (factory(config["linear"]),) if kind == "mlp" else ()
        return _filled(factory(config[kind] | changes)(*runtime, *linear), seed, noise)

    return made


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
def ramen() -> Callable[..., subprocess.CompletedProcess[str]]:
    """ramen(*words, cwd=): train.py as a process, ended."""

    def ramen(*words: str, cwd: Path = CONF.parent) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(CONF.parent / "train.py"), *words]
        return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)

    return ramen


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where small runs keep their data, prepared once for all of them."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session")
def small(data_folder: Path) -> tuple[str, ...]:
    """The words of a run as small as they come: six steps on byte tokens."""
    return (*SMALL, f"data.folder={data_folder}")


@pytest.fixture(scope="session")
def train_config() -> Callable[..., dict[str, Any]]:
    """train_config(folder, *overrides, job=): a run in this process; its summary. `resume=here` is that of the folder."""

    def train(folder: Path, *overrides: str, job: int | None = None) -> dict[str, Any]:
        folder.mkdir(parents=True, exist_ok=True)
        config = _compose(*overrides)
        if config["resume"]:
            config["resume"] = str(folder)
        choices = {"optimizer": config["optimizer"]["_target_"].split(".")[-2], "mlp": "default"}
        return run(Command(config, folder, choices, list(overrides), job))

    return train


@pytest.fixture(scope="session")
def train_small(small: tuple[str, ...], train_config: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """train_small(folder, *overrides, job=): a run as small as they come."""
    return lambda folder, *overrides, job=None: train_config(folder, *small, *overrides, job=job)


@pytest.fixture(scope="session")
def trained(train_small: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small run that has ended, with one checkpoint."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    train_small(folder)
    return folder


@pytest.fixture(scope="session")
def write_shard() -> Callable[..., None]:
    """write_shard(path, ids): a shard of these ids, as modded-nanogpt writes them."""
    return lambda path, ids: path.write_bytes(header_of(len(ids)) + np.asarray(ids, dtype="<u2").tobytes())


def _dry(config: dict[str, Any]) -> DryRun:
    return dry_run(config, DataSpec(37, BOS, 32), torch.float32)


@pytest.fixture(scope="session")
def dry() -> Callable[..., DryRun]:
    """dry(config): the sketch of a run on a tiny text."""
    return _dry


class Lines(Logger):
    """Keeps the records."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def record(self, line: dict[str, Any]) -> None:
        self.lines.append(line)


@pytest.fixture(scope="session")
def trainer_in(small: tuple[str, ...]) -> Callable[..., Trainer]:
    """trainer_in(folder, *overrides, clock=): of a small run, before its first step; `logger.lines` are its records."""

    def make(folder: Path, *overrides: str, clock: Callable[[], float] = time.perf_counter) -> Trainer:
        config = _compose(*small, *overrides)
        folder.mkdir(parents=True, exist_ok=True)
        valid = validate(config)
        dataset = valid.source.dataset(progress=False)
        trainer = build_trainer(Command(config, folder, {}, [], None), valid, dataset, Lines())
        trainer.clock = clock
        return trainer

    return make


@pytest.fixture
def make_trainer(trainer_in: Callable[..., Trainer], tmp_path: Path) -> Callable[..., Trainer]:
    """make_trainer(name, *overrides, clock=): of a small run of eight steps."""
    return lambda name, *overrides, **more: trainer_in(
        tmp_path / name, "trainer.record_every_steps=2", "trainer.steps=8", *overrides, **more
    )


CLOCKS = ("seconds", "tokens_per_second", "peak_memory")


@pytest.fixture
def train(train_small: Callable[..., dict[str, Any]], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """train(name, *overrides): a small run of eight steps; its summary."""
    return lambda name, *overrides: train_small(
        tmp_path / name, "trainer.record_every_steps=2", "trainer.steps=8", *overrides
    )


@pytest.fixture
def weights(tmp_path: Path) -> Callable[[str], dict[str, Tensor]]:
    """weights(name): those of a run's newest checkpoint."""
    return lambda name: load_file(checkpoint.latest(tmp_path / name) / checkpoint.WEIGHTS)


@pytest.fixture
def records(tmp_path: Path) -> Callable[[str], list[dict[str, Any]]]:
    """records(name): a run's records, without what clocks have measured."""

    def records(name: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        return [{key: value for key, value in line.items() if key not in CLOCKS} for line in lines]

    return records


@pytest.fixture
def assert_bitwise(weights: Any, records: Any) -> Callable[[str, str], None]:
    """assert_bitwise(name, other): two runs have the same records, and the same weights bit for bit."""

    def assert_bitwise(name: str, other: str) -> None:
        assert records(name) == records(other)
        torch.testing.assert_close(weights(name), weights(other), rtol=0, atol=0)

    return assert_bitwise
