"""The stacked feed-forward, by hand."""

import pytest
import torch

from ramen.ops.rms_norm import rms_norm

DIM = 16


@pytest.fixture
def ff(component):
    """ff(depth, **changes): one whose delta is not zero at the start."""
    arguments = {"activation": "gelu", "output_init_scale": 1.0}
    return lambda depth=3, **changes: component("mlp", "ff", DIM, depth=depth, **arguments | changes)


def values(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_formula(ff):
    module, start = ff(), values(2, 3, DIM)
    with torch.no_grad():
        module.gain.copy_(0.1 * values(3, DIM))
    x = start
    for gain, up, down in zip(module.gain, module.up, module.down, strict=True):
        x = x + down(torch.nn.functional.gelu(up(rms_norm(x) * (1 + gain))))
    torch.testing.assert_close(module(start), x - start)


def test_starts_at_a_delta_of_zero_and_not_at_its_input(ff):
    assert not ff(output_init_scale=0.0)(values(2, 3, DIM)).any()


@pytest.mark.parametrize(("depth", "width"), [(1, 64), (2, 32), (4, 16)])
def test_the_stack_has_the_parameters_of_one_mlp(depth, width, ff):
    assert [tuple(up.weight.shape) for up in ff(depth).up] == [(1, width, DIM)] * depth
    assert [tuple(up.weight.shape) for up in ff(depth, match_parameters=False).up] == [(1, 64, DIM)] * depth


def test_scale_of_the_input_matters_only_against_what_was_added(ff):
    module, x = ff(depth=1), values(2, 3, DIM)
    torch.testing.assert_close(module(10 * x), module(x), atol=1e-4, rtol=1e-4)
