"""What makes runs comparable, bitwise: one seed is one order of the data and one set of first weights, whatever the method.

Also: everything but the matrices is trained by the same optimizer, with the same settings.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from ramen.config.registry import options
from ramen.training.loop import Trainer

METHODS = [name for name, option in options("optimizer").items() if str(option.target).startswith("ramen.")]
ARCHITECTURES = (
    "mlp=nff", "mlp=ff", "mlp.activation=gelu", "residual=mhc", "residual=hc", "stream=modded", "position=none", "linear=low_rank",
    "embedding=untied", "optimizer.lr=0.1", "schedule=wsd", "trainer.steps=3",
)  # fmt: skip


@dataclass
class Built:
    """What a run starts from."""

    weights: dict[str, torch.Tensor]
    batches: list[tuple[list[Any], list[Any]]]
    validation: list[Any]
    auxiliary: dict[str, dict[str, Any]]  # parameter -> settings of its group


@pytest.fixture(scope="module")
def built(trainer_in: Callable[..., Trainer], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Built]:
    """built(*overrides): a run, up to its first step."""
    folder: Path = tmp_path_factory.mktemp("protocol")

    @functools.cache
    def build(*overrides: str) -> Built:
        trainer = trainer_in(folder, *overrides)
        names = {parameter: name for name, parameter in trainer.model.named_parameters()}
        settings = {
            names[parameter]: {key: value for key, value in group.items() if key != "params"}
            for group in trainer.optimizers.by_name["auxiliary"].param_groups
            for parameter in group["params"]
        }
        taken = [trainer.batches.take(4) for _ in range(3)]
        batches = [(batch.tokens.tolist(), batch.targets.tolist()) for batch in taken]
        weights = {name: value.detach().clone() for name, value in trainer.model.state_dict().items()}
        return Built(weights, batches, trainer.validation.tokens.tolist(), settings)

    return build


def needs(method: str) -> list[str]:
    return ["linear=low_rank"] if method == "spectron" else []


@pytest.mark.parametrize("method", METHODS)
def test_methods_start_from_the_same_weights_read_the_same_data_and_share_the_auxiliary_optimizer(method, built):
    theirs, ours = built(f"optimizer={method}", *needs(method)), built("optimizer=adamw", *needs(method))
    assert theirs.weights.keys() == ours.weights.keys()
    assert all(torch.equal(theirs.weights[name], ours.weights[name]) for name in ours.weights)
    assert (theirs.batches, theirs.validation) == (ours.batches, ours.validation)
    assert theirs.auxiliary == ours.auxiliary and ours.auxiliary


@pytest.mark.parametrize("override", ARCHITECTURES)
def test_architectures_share_data_auxiliary_settings_and_the_weights_they_have_in_common(override, built):
    theirs, ours = built(override), built()
    same_shape = [n for n in ours.weights if n in theirs.weights and theirs.weights[n].shape == ours.weights[n].shape]
    assert any("embedding" in name for name in same_shape)
    assert all(torch.equal(theirs.weights[name], ours.weights[name]) for name in same_shape)
    assert (theirs.batches, theirs.validation) == (ours.batches, ours.validation)
    common = theirs.auxiliary.keys() & ours.auxiliary.keys()
    assert common and all(theirs.auxiliary[name] == ours.auxiliary[name] for name in common)


def test_what_a_part_promises_of_its_weights_holds_before_the_first_step(built):
    norms = [value.norm(dim=-1) for name, value in built("mlp=nff").weights.items() if name.endswith("mlp.up.weight")]
    assert norms
    torch.testing.assert_close(norms, [torch.ones_like(norm) for norm in norms])


def test_another_seed_is_another_order_and_other_weights_of_the_same_validation_set(built):
    theirs, ours = built("seed=1"), built()
    assert theirs.batches != ours.batches and theirs.validation == ours.validation
    drawn = [name for name, value in ours.weights.items() if value.unique().numel() > 2]
    assert drawn and not any(torch.equal(theirs.weights[name], ours.weights[name]) for name in drawn)
