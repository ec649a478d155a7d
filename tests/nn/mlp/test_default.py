"""The plain MLP and its gated form, by hand."""

import pytest
import torch

DIM = 16


@pytest.fixture
def mlp(component):
    """mlp(dim, **changes): one whose delta is not zero at the start."""
    return lambda dim=DIM, **changes: component("mlp", "default", dim, **{"output_init_scale": 1.0} | changes)


def values(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_formula(mlp):
    module, x = mlp(), values(2, 3, DIM)
    expected = torch.relu(x @ module.up.weight[0].T).square() @ module.down.weight[0].T
    torch.testing.assert_close(module(x), expected)


def test_gated_formula(mlp):
    module, x = mlp(activation="swiglu"), values(2, 3, DIM)
    gate, up = module.up.weight
    expected = (torch.nn.functional.silu(x @ gate.T) * (x @ up.T)) @ module.down.weight[0].T
    torch.testing.assert_close(module(x), expected)


def test_starts(mlp):
    wide = mlp(256, init_scale=0.5, output_init_scale=2.0)
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
def test_shapes(activation, match, shapes, mlp):
    module = mlp(activation=activation, match_parameters=match)
    assert [tuple(p.shape) for p in module.parameters()] == shapes


@pytest.mark.parametrize("match", [True, False])
def test_the_plain_width_is_exact_where_a_rounder_one_is_near(match, mlp):
    assert mlp(255, activation="gelu", match_parameters=match).down.weight.shape == (1, 255, 1020)
