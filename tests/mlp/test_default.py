"""The plain MLP and its gated form, by hand."""

import pytest
import torch

from ramen.linear.dense import Dense
from ramen.mlp.default import MLP
from ramen.ops.parameter import initialise

DIM = 16


def mlp(**changes) -> MLP:
    config = {"activation": "relu_squared", "expansion": 4.0, "match_parameters": True, "init_scale": 1.0}
    made = MLP(DIM, Dense, **config | {"output_init_scale": 1.0} | changes)
    initialise(made, 0)
    return made


def values(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_formula():
    module, x = mlp(), values(2, 3, DIM)
    expected = torch.relu(x @ module.up.weight[0].T).square() @ module.down.weight[0].T
    torch.testing.assert_close(module(x), expected)


def test_gated_formula():
    module, x = mlp(activation="swiglu"), values(2, 3, DIM)
    gate, up = module.up.weight
    expected = (torch.nn.functional.silu(x @ gate.T) * (x @ up.T)) @ module.down.weight[0].T
    torch.testing.assert_close(module(x), expected)


def test_starts():
    wide = MLP(
        256, Dense, activation="gelu", expansion=4.0, match_parameters=True, init_scale=0.5, output_init_scale=2.0
    )
    initialise(wide, 0)
    assert wide.up.weight.std().item() == pytest.approx(0.5 / 16, rel=0.01)
    assert wide.down.weight.std().item() == pytest.approx(2 / 32, rel=0.01)
    assert not mlp(output_init_scale=0.0)(values(1, 2, DIM)).any()


@pytest.mark.parametrize(
    ("activation", "match", "shapes"),
    [
        ("gelu", True, [(1, 64, 16), (1, 16, 64)]),
        ("gelu", False, [(1, 64, 16), (1, 16, 64)]),
        ("geglu", True, [(2, 43, 16), (1, 16, 43)]),
        ("geglu", False, [(2, 64, 16), (1, 16, 64)]),
    ],
)
def test_shapes(activation, match, shapes):
    module = mlp(activation=activation, match_parameters=match)
    assert [tuple(p.shape) for p in module.parameters()] == shapes


@pytest.mark.parametrize("match", [True, False])
def test_the_plain_width_is_exact_where_a_rounder_one_is_near(match):
    config = {"expansion": 4.0, "match_parameters": match, "init_scale": 1.0, "output_init_scale": 0.0}
    assert MLP(255, Dense, activation="gelu", **config).down.weight.shape == (1, 255, 1020)
