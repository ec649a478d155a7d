"""Initial values come from (seed, name) alone."""

import copy
import io
import pickle
import re

import pytest
import torch
from torch import nn

from ramen.build.objects import build_groups, build_optimizers
from ramen.errors import ConfigError
from ramen.nn.parameter import (
    Component,
    constant,
    generator,
    initialise,
    named_roles,
    normal,
    parameter,
    uniform,
)


class Layer(Component):
    """One declared parameter, whose name in a model is where the layer stands."""

    def __init__(self, shape=(40, 50), initial=None, role="matrix"):
        super().__init__()
        self.weight = parameter(shape, initial or normal(0.1), role)


def born(seed: int = 0, **layers: nn.Module) -> dict[str, torch.Tensor]:
    """Values of every parameter of a model of these layers after `initialise`."""
    model = nn.ModuleDict(layers)
    initialise(model, seed)
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def test_a_value_depends_on_seed_and_name_and_nothing_else_of_the_model():
    alone = born(a=Layer())["a.weight"]
    torch.manual_seed(123)
    among = born(first=Layer((7, 3)), a=Layer(), z=Layer(initial=uniform(1.0)), foreign=nn.Linear(3, 4))
    assert torch.equal(alone, among["a.weight"])
    assert not torch.equal(alone, born(b=Layer())["b.weight"])
    assert not torch.equal(alone, born(seed=1, a=Layer())["a.weight"])


@pytest.mark.parametrize(
    ("initial", "first"),
    [(normal(1.0), [1.6251, 2.2308, 0.8906, 2.2120]), (uniform(1.0), [1.3791, 1.5613, 1.4622, 1.4936])],
    ids=["normal", "uniform"],
)
def test_an_initial_value_is_the_same_in_every_release(initial, first):
    """A change here changes every result, and must be on purpose."""
    weight = born(seed=3, a=Layer((4, 5), initial))["a.weight"]
    assert weight[0, :4].tolist() == pytest.approx(first, abs=1e-4)


@pytest.mark.parametrize("make", [normal, uniform])
@pytest.mark.parametrize("std", [0.02, 1.5])
def test_standard_deviation_is_the_one_asked_for(make, std):
    weight = born(a=Layer((300, 300), make(std)))["a.weight"]
    assert weight.std().item() == pytest.approx(std, rel=0.02)
    assert weight.mean().item() == pytest.approx(0, abs=0.02 * std)
    if make is uniform:
        assert weight.abs().max().item() == pytest.approx(3**0.5 * std, rel=1e-3)


@pytest.mark.parametrize(("initial", "value"), [(normal(0.0), 0.0), (uniform(0.0), 0.0), (constant(0.25), 0.25)])
def test_constant_values(initial, value):
    assert torch.equal(born(a=Layer((3, 4), initial))["a.weight"], torch.full((3, 4), value))


def test_a_bank_starts_as_its_entries_do():
    """And its first matrices do not depend on how many follow."""
    three = born(a=Layer((3, 60, 70), uniform(0.1, 0.1, 0.0)))["a.weight"]
    two = born(a=Layer((2, 60, 70), uniform(0.1, 0.1)))["a.weight"]
    assert torch.equal(three[:2], two) and not three[2].any()
    assert not torch.equal(three[0], three[1])
    with pytest.raises(ValueError, match="shorter"):
        born(a=Layer((3, 4, 4), uniform(0.1, 0.1)))


def test_a_foreign_module_is_reset_by_seed_and_name():
    first = born(a=nn.Linear(6, 7), b=nn.Embedding(5, 6))
    torch.manual_seed(99)
    again = born(b=nn.Embedding(5, 6), other=Layer(), a=nn.Linear(6, 7))
    for name, value in first.items():
        assert torch.equal(value, again[name])
    assert not torch.equal(first["a.weight"], born(seed=1, a=nn.Linear(6, 7))["a.weight"])
    assert not torch.equal(first["a.weight"], born(c=nn.Linear(6, 7))["c.weight"])


def test_a_module_that_cannot_be_reset_is_named():
    bare = nn.Module()
    bare.gain = nn.Parameter(torch.ones(3))
    with pytest.raises(TypeError, match=r"block\.inner: .*parameter.*reset_parameters"):
        initialise(nn.ModuleDict({"block": nn.ModuleDict({"inner": bare})}), 0)


def test_the_global_generator_is_untouched():
    layers = {"a": Layer(), "b": nn.Linear(6, 7)}  # nn.Linear draws when it is made
    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    born(**layers)
    assert torch.equal(torch.rand(4), expected)


def test_a_half_precision_parameter_gets_the_rounded_values():
    model = nn.ModuleDict({"a": Layer()}).to(torch.bfloat16)
    initialise(model, 0)
    assert torch.equal(model["a"].weight, born(a=Layer())["a.weight"].bfloat16())


def test_a_double_precision_parameter_gets_the_very_same_values():
    one, other = (nn.ParameterDict({"w": parameter((9, 9), normal(1.0), "matrix")}) for _ in range(2))
    initialise(one, 0)
    initialise(other.double(), 0)
    assert torch.equal(one["w"].double(), other["w"])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e31])
def test_values_that_are_no_start_are_refused(value):
    for make in (normal, uniform, constant):
        with pytest.raises(ValueError, match=rf"1e\+30\]?, got {re.escape(str(value))}$"):
            make(value)


def to_meta_and_back(model):
    return model.to("meta").to_empty(device="cpu")


def assigned(model):
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    return (model, model.load_state_dict(weights, assign=True))[0]


def loaded(model):
    return (model, model.load_state_dict(model.state_dict()))[0]


def saved(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


CHANGES = [
    copy.deepcopy, lambda model: copy.deepcopy(copy.deepcopy(model)), lambda model: pickle.loads(pickle.dumps(model)), saved,
    lambda model: model.to(torch.float64), lambda model: model.bfloat16(), loaded, assigned, to_meta_and_back,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_declarations_survive_what_torch_does_to_a_model(compose, build_gpt, change):
    """Roles, initial values and factor pairs: after a copy, a move, a load, with every kind of parameter there is."""
    overrides = (
        "linear=low_rank",
        "embedding=split",
        "value_embedding=tables",
        "stream=modded",
        "residual=kromhc",
        "mlp=ff",
    )
    overrides += ("stream.bigram_rows=60", "optimizer=spectron")
    model = build_gpt(*overrides)
    before = {name: role for name, _, role in named_roles(model)}
    assert set(before.values()) == {"matrix", "embedding", "head", "value_embedding", "gate", "scalar"}
    values = {name: value.detach().clone() for name, value in model.named_parameters()}
    changed = change(model)
    assert {name: role for name, _, role in named_roles(changed)} == before
    config = compose(*overrides)
    build_optimizers(config, build_groups(config, changed))  # Spectron refuses a factor without its partner
    initialise(changed.float(), 0)
    assert all(torch.equal(value, values[name]) for name, value in changed.named_parameters())


def test_a_component_alone_is_copied_with_its_roles():
    layer = copy.deepcopy(nn.ModuleDict({"a": Layer(role="gate")}))
    assert [role for _, _, role in named_roles(layer)] == ["gate"]


def test_a_table_of_torch_is_no_matrix():
    """Its rows are looked up, so that to orthogonalise them would mix tokens."""
    model = nn.ModuleDict({"table": nn.Embedding(7, 3), "bag": nn.EmbeddingBag(7, 3), "map": nn.Linear(3, 3)})
    roles = {name: role for name, _, role in named_roles(model)}
    assert roles == {
        "table.weight": "embedding", "bag.weight": "embedding", "map.weight": "matrix", "map.bias": "scalar"
    }  # fmt: skip


@pytest.mark.parametrize("module", [nn.Conv1d(4, 6, 3), nn.Conv2d(4, 6, 3), nn.Bilinear(3, 4, 5)])
def test_what_nobody_said_the_matrices_of_is_refused(module):
    with pytest.raises(ConfigError, match=r"part\.weight: a parameter of more than two axes needs a role, got shape"):
        list(named_roles(nn.ModuleDict({"part": module})))


def test_generators_differ_by_seed_and_name_together():
    """(1, '1/x') is not (11, '/x'): no two parameters share a stream by an accident of spelling."""
    seeds = {generator(seed, name).initial_seed() for seed in range(20) for name in ("a", "b", "a.b", "1/a", "/a", "")}
    assert len(seeds) == 20 * 6
