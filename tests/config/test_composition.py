"""An experiment under the options of a command line: whatever is chosen composes, and what is meant for another does not stay."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir

from ramen.config.check import check
from ramen.config.composition import plain
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
        words = [f"{group}={names[index % len(names)]}" for group, names in groups.items()]
        check(compose(f"experiment={experiment}", *words))


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
        ("mlp=ff", {"init_scale": 0.5}, None),
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
    own, found = compose(word)[section], compose("experiment=baseline", word)[section]
    assert found == own | stays and gone not in found


def test_the_command_line_has_the_last_word(compose: Compose) -> None:
    words = ("experiment=baseline", "optimizer=bam", "mlp=nff")
    assert compose(*words, "optimizer={lr: 0.5}")["optimizer"]["lr"] == 0.5
    with pytest.raises(ConfigError, match=r"optimizer\.axis: no such key"):
        check(compose(*words, "+optimizer={axis: long}"))


def test_ones_own_experiments_inherit_and_their_mistakes_are_refused(tmp_path: Path) -> None:
    """`depth` is a key of mlp=ff, which this experiment does not choose."""
    (tmp_path / "experiment").mkdir()
    inherits = "defaults: [baseline, override /optimizer: bam]"
    says = "mlp: {activation: gelu}\noptimizer: {momentum_schedule: {start: 0.5}}"
    for name, text in {"mine": f"{inherits}\n{says}", "wrong": "mlp: {depth: 3}"}.items():
        (tmp_path / "experiment" / f"{name}.yaml").write_text(f"# @package _global_\n{text}\n")

    def composed(*words: str) -> dict[str, Any]:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return plain(hydra_compose("config", [f"hydra.searchpath=['file://{tmp_path}']", *words]))

    mine = composed("experiment=mine")
    own = composed("optimizer=bam")["optimizer"]
    assert mine["optimizer"] == own | {"momentum_schedule": own["momentum_schedule"] | {"start": 0.5}}
    check(composed("experiment=mine", "schedule@optimizer.momentum_schedule=constant"))
    assert mine["mlp"]["init_scale"] == 0.5 and mine["embedding"]["split_at"] == 0.9
    assert composed("experiment=mine", "mlp=nff")["mlp"]["activation"] == "gelu"
    for word in ("mlp=default", "mlp=nff"):
        with pytest.raises(ConfigError, match=r"mlp\.depth: no such key"):
            check(composed("experiment=wrong", word))


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
