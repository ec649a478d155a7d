"""The residual normed MLP, by hand; no zero weight stands in front of a norm."""

import pytest
import torch

from ramen.ops.rms_norm import rms_norm

DIM = 16


@pytest.fixture
def residual_normed(component):
    """residual_normed(**changes): two blocks of two units, and a delta that is not zero at the start."""
    arguments = {"residual_every": 2, "output_init_scale": 1.0}
    return lambda **changes: component("mlp", "residual_normed", DIM, **arguments | changes)


def values(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_formula(residual_normed):
    module, x = residual_normed(), values(2, 3, DIM)

    def unit(layer, h):
        return torch.nn.functional.silu(rms_norm(h @ layer.weight.weight[0].T) * (1 + layer.gain))

    h = unit(module.entry, x)
    for block in module.blocks:
        inner = h
        for layer in block:
            inner = unit(layer, inner)
        h = h + inner
    torch.testing.assert_close(module(x), h @ module.down.weight[0].T)
    assert [len(block) for block in module.blocks] == [2, 2]


def test_only_the_output_map_starts_at_zero(residual_normed):
    module = residual_normed(output_init_scale=0.0)
    assert not module(values(2, 3, DIM)).any()
    assert [key for key, p in module.named_parameters() if p.role == "matrix" and not p.any()] == ["down.weight"]


def test_refuses_a_depth_that_is_no_multiple(residual_normed):
    with pytest.raises(ValueError, match="depth must be a multiple of residual_every = 3, got 4"):
        residual_normed(depth=4, residual_every=3)


def test_width_without_matching(residual_normed):
    module = residual_normed(match_parameters=False)
    assert tuple(module.entry.weight.weight.shape) == (1, 64, DIM)
    assert tuple(module.blocks[0][0].weight.weight.shape) == (1, 64, 64)
