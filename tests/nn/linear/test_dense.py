"""Dense: a bank of matrices, each used and normalised by itself."""

import pytest
import torch

from ramen.nn.linear.dense import Dense
from ramen.nn.parameter import initialise


def make(rows: int = 5, columns: int = 7, stds: tuple[float, ...] = (1.0, 1.0, 1.0, 0.0)) -> Dense:
    module = Dense(rows, columns, stds)
    initialise(module, 0)
    return module


@pytest.mark.parametrize(("first", "last"), [(0, None), (0, 3), (3, None), (1, 2)])
def test_matrices_of_the_range_side_by_side(first, last):
    module, x = make(), torch.randn(2, 3, 7)
    expected = torch.cat([x @ matrix.T for matrix in module.weight[first:last]], dim=-1)
    torch.testing.assert_close(module(x, first, last), expected)


def test_each_matrix_starts_uniform_at_its_own_standard_deviation():
    weight = make(200, 300, (0.5, 0.01, 0.0)).weight
    assert weight.std(dim=(1, 2)).tolist() == pytest.approx([0.5, 0.01, 0.0], rel=0.02)
    assert weight.abs().amax(dim=(1, 2)).tolist() == pytest.approx([3**0.5 * 0.5, 3**0.5 * 0.01, 0.0], rel=1e-3)


@pytest.mark.parametrize("axis", [-1, -2])
def test_normalise_brings_one_axis_to_unit_length_and_keeps_directions(axis):
    module = make(stds=(1.0, 0.01))
    before = module.weight.detach().clone()
    module.normalise(axis)
    lengths = before.norm(dim=axis, keepdim=True)
    torch.testing.assert_close(module.weight, before / lengths)
    assert module.weight.role == "matrix" and module.weight.requires_grad
