"""An experiment under the options of a command line: whatever is chosen composes, and what is meant for another does not stay."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ramen.config.check import check, flatten
from ramen.config.compose import compose as compose_words
from ramen.config.kinds import COMPOSITIONS, KINDS
from ramen.config.registry import CONF, options
from ramen.errors import ConfigError

Compose = Callable[..., dict[str, Any]]


def touched(experiment: str) -> Iterator[tuple[str, list[str]]]:
    """(group or group@section, its options) for each group the experiment names or says values of."""
    said = yaml.safe_load((CONF / "experiment" / f"{experiment}.yaml").read_text())
    named = [next(iter(line)).removeprefix("override /") for line in said.pop("defaults", [])]
    for group in sorted({*named, *said} & {*named, *KINDS} - {*COMPOSITIONS}):
        kind = group.partition("@")[0]
        whole = [name for name in options(kind) if "???" not in (CONF / kind / f"{name}.yaml").read_text()]
        yield group, whole


@pytest.mark.parametrize("experiment", options("experiment"))
def test_an_experiment_composes_with_every_option_of_every_part(compose: Compose, experiment: str) -> None:
    groups = dict(touched(experiment))
    for index in range(max(map(len, groups.values()))):
        overrides = [f"{group}={names[index % len(names)]}" for group, names in groups.items()]
        check(compose(f"experiment={experiment}", *overrides))


def test_rates_are_of_the_optimizer_an_experiment_is_written_with(compose: Compose) -> None:
    baseline = compose("experiment=baseline")
    assert baseline["optimizer"]["axis"] == "long" and baseline["optimizer"]["weight_decay"] == 1.2
    assert compose("experiment=baseline", "optimizer=normuon") == baseline
    for name in ("bam", "adamw", "muon"):
        other = compose("experiment=baseline", f"optimizer={name}")
        assert other.pop("optimizer") == compose(f"optimizer={name}")["optimizer"]
        assert other == {key: value for key, value in baseline.items() if key != "optimizer"}


@pytest.mark.parametrize(
    ("word", "stays", "gone"),
    [
        ("embedding=tied", {"init_std": 0.005, "pad_to_multiple": 128}, "split_at"),
        ("mlp=ff", {"init_scale": 0.5, "output_lr_scale": 4.0}, None),
        ("mlp=nff", {}, "init_scale"),
        ("schedule=cosine", {"final": 0.1, "warmup_fraction": 0.0381}, "cooldown_fraction"),
        ("schedule@batch_schedule=constant", {}, "values"),
        ("data=shakespeare", {"sequence_length": 512, "validation_tokens": 1_048_576}, "shards"),
        ("data=finewebedu10b", {"sequence_length": 512, "validation_tokens": 1_048_576, "shards": 1}, None),
    ],
)
def test_other_values_stay_where_the_option_has_the_key(
    compose: Compose, word: str, stays: dict[str, Any], gone: str | None
) -> None:
    section = word.partition("=")[0].rpartition("@")[2]
    alone, result = compose(word)[section], compose("experiment=baseline", word)[section]
    assert result == alone | stays and gone not in result


def test_the_command_line_has_the_last_word(compose: Compose) -> None:
    overrides = ("experiment=baseline", "optimizer=bam", "mlp=nff")
    assert compose(*overrides, "optimizer={lr: 0.5}")["optimizer"]["lr"] == 0.5
    with pytest.raises(ConfigError, match=r"optimizer\.axis: no such key"):
        check(compose(*overrides, "+optimizer={axis: long}"))


@pytest.fixture
def custom(tmp_path: Path) -> Compose:
    """own(*words): a plain config with a folder of one's own on the search path."""
    files = {
        "experiment/mine": "defaults: [baseline, override /optimizer: bam]\nmlp: {activation: gelu}",
        "experiment/smaller": "defaults: [/experiment/mine, override /embedding: tied]\nmodel: {layers: 3}",
        "experiment/quick": "defaults: [override /optimizer: muon]\noptimizer: {lr: 0.5, scaling: rms}",
        "experiment/wrong": "mlp: {depth: 3}",  # a key of mlp=ff, which it does not choose
        "tuned/mine/bam": "optimizer: {lr: 0.25, momentum_schedule: {start: 0.5}}",
        "tuned/smaller/normuon": "defaults: [/tuned/baseline/normuon]\noptimizer: {lr: 0.125}",
    }
    for name, text in files.items():
        path = tmp_path / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# @package _global_\n{text}\n")
    return lambda *overrides: compose_words([f"hydra.searchpath=['file://{tmp_path}']", *overrides])


def test_an_experiment_of_ones_own_inherits(custom: Compose) -> None:
    inherited, bam = custom("experiment=mine"), custom("optimizer=bam")["optimizer"]
    assert inherited["optimizer"] == bam | {"lr": 0.25, "momentum_schedule": bam["momentum_schedule"] | {"start": 0.5}}
    assert inherited["mlp"]["init_scale"] == 0.5 and inherited["embedding"]["split_at"] == 0.9
    assert custom("experiment=mine", "mlp=nff")["mlp"]["activation"] == "gelu"
    check(custom("experiment=mine", "schedule@batch_schedule=constant"))
    check(
        custom("experiment=mine", "schedule@optimizer.momentum_schedule=constant", "~optimizer.momentum_schedule.start")
    )


def test_an_option_that_an_heir_replaces_leaves_no_key(custom: Compose) -> None:
    smaller = custom("experiment=smaller", "optimizer=normuon")
    check(smaller)
    assert smaller["embedding"].keys() == custom("embedding=tied")["embedding"].keys()
    assert smaller["embedding"]["init_std"] == 0.005 and smaller["model"]["layers"] == 3
    assert (smaller["optimizer"]["lr"], smaller["optimizer"]["axis"]) == (0.125, "long")


@pytest.mark.parametrize("word", ["mlp=default", "mlp=nff", "seed=1"])
def test_a_key_of_an_option_that_was_never_chosen_is_refused(custom: Compose, word: str) -> None:
    with pytest.raises(ConfigError, match=r"mlp\.depth: no such key"):
        check(custom("experiment=wrong", word))


def test_a_key_of_the_command_line_is_never_left_out(compose: Compose) -> None:
    with pytest.raises(ConfigError, match=r"embedding\.split_at: no such key"):
        check(compose_words(["experiment=baseline", "embedding=tied", "embedding.split_at=0.5"]))


def test_rates_of_one_optimizer_are_not_handed_to_another(custom: Compose) -> None:
    assert custom("experiment=quick")["optimizer"]["lr"] == 0.5
    message = r"optimizer\.lr: experiment=quick sets it for optimizer=muon, and optimizer=bam is chosen; give optimizer\.lr=VALUE"
    with pytest.raises(ConfigError, match=message):
        custom("experiment=quick", "optimizer=bam")
    config = custom("experiment=quick", "optimizer=bam", "optimizer.lr=0.125", "optimizer.scaling=none")
    assert (config["optimizer"]["lr"], config["optimizer"]["scaling"]) == (0.125, "none")


def test_an_heir_says_whether_it_takes_the_rates(custom: Compose) -> None:
    with pytest.raises(
        ConfigError, match=r"inherits mine, but not its rates for optimizer=bam; write .* tuned/smaller/bam"
    ):
        custom("experiment=smaller")


TUNED = sorted(path.relative_to(CONF / "tuned").with_suffix("") for path in (CONF / "tuned").rglob("*.yaml"))


@pytest.mark.parametrize("path", TUNED, ids=str)
def test_tuned_rates_are_of_one_optimizer_at_one_experiment(compose: Compose, path: Path) -> None:
    experiment, optimizer = path.parts
    text = (CONF / "tuned" / path).with_suffix(".yaml").read_text()
    assert re.match(r"# @package _global_\n# \S.{15,}\n", text)
    rates = yaml.safe_load(text)
    assert rates.keys() <= {"optimizer", "auxiliary", "routing"}
    config = compose(f"experiment={experiment}", f"optimizer={optimizer}")
    check(config)
    for section, node in flatten(rates).items():
        assert flatten(config)[section] == node


def test_an_ablation_of_the_baseline_is_one_command(ramen: Any, tmp_path: Path, small: tuple[str, ...]) -> None:
    narrow = ("model.layers=5", "data=shakespeare", "trainer.batch_tokens=128", "trainer.micro_batch_tokens=128")
    done = ramen(
        "-m", "experiment=baseline", "optimizer=normuon,bam", *small, *narrow, f"hydra.sweep.dir={tmp_path}"
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lr = {}
    for path in tmp_path.glob("*/summary.json"):
        config = yaml.safe_load((path.parent / "config.yaml").read_text())
        lr[config["optimizer"]["_target_"].rpartition(".")[2]] = config["optimizer"]["lr"]
        assert json.loads(path.read_text())["status"] == "finished"
    assert lr == {"NorMuon": 0.02, "BAM": 0.01}
