"""Every option of conf/linear: a bank of maps, each used and started by itself."""

from collections.abc import Callable

import pytest
import torch

from ramen.config.registry import factory, options
from ramen.errors import ConfigError
from ramen.nn.contracts import Linear
from ramen.nn.parameter import initialise, named_roles


@pytest.fixture(params=options("linear"))
def make(request, compose) -> Callable[..., Linear]:
    """make(rows, columns, stds): maps of this option, initialised."""

    def make(rows: int = 6, columns: int = 8, stds: tuple[float, ...] = (1.0, 0.5, 1.0, 0.0)) -> Linear:
        module = factory(compose(f"linear={request.param}")["linear"])(rows, columns, stds)
        initialise(module, 0)
        return module

    return make


def matrices(module: Linear, columns: int) -> torch.Tensor:
    """The maps as they act, (N, rows, columns)."""
    count = next(module.parameters()).shape[0]
    return torch.stack([module(torch.eye(columns), k, k + 1).T for k in range(count)]).detach()


@pytest.mark.parametrize(("first", "last"), [(0, None), (0, 3), (3, None), (1, 2)])
def test_maps_of_the_range_side_by_side(make, first, last):
    module, x = make(), torch.randn(2, 3, 8)
    with torch.no_grad():
        for value in module.parameters():
            value += 0.1
    expected = torch.cat([x @ matrix.T for matrix in matrices(module, 8)[first:last]], dim=-1)
    torch.testing.assert_close(module(x, first, last), expected)
    stored = module.matrices()
    assert stored is None or torch.equal(stored, matrices(module, 8))


@pytest.mark.parametrize(("rows", "columns"), [(200, 300), (300, 100), (150, 150)])
def test_each_map_starts_at_its_own_standard_deviation(make, rows, columns):
    module = make(rows, columns, (0.5, 0.01, 0.0))
    starts = matrices(module, columns)
    assert starts.std(dim=(1, 2)).tolist() == pytest.approx([0.5, 0.01, 0.0], rel=0.05)
    assert starts.mean().abs() < 0.01
    assert not torch.equal(starts[0] / 0.5, starts[1] / 0.01)


def test_a_map_that_starts_at_zero_learns(make):
    module = make(20, 30, (1.0, 0.0))
    assert not module(torch.randn(4, 30), 1).any()
    (module(torch.randn(4, 30)) * torch.randn(4, 40)).sum().backward()
    assert any(value.grad[1].any() for value in module.parameters())


def test_all_of_it_is_matrices_in_one_leading_axis(make):
    assert {(value.ndim, role) for _, value, role in named_roles(make())} == {(3, "matrix")}


@pytest.mark.parametrize("axis", [-1, -2])
def test_normalises_one_axis_or_says_that_it_cannot(make, axis):
    module = make(stds=(1.0, 0.01))
    before = matrices(module, 8)
    try:
        module.normalise(axis)
    except ConfigError as error:
        assert "linear=dense" in str(error)
    else:
        torch.testing.assert_close(matrices(module, 8), before / before.norm(dim=axis, keepdim=True))


def test_trains_under_autocast(make):
    module = make()
    with torch.autocast("cpu", torch.bfloat16):
        module(torch.randn(5, 8)).float().square().sum().backward()
    assert all(value.grad.dtype == torch.float32 for value in module.parameters())
    assert any(value.grad[:3].any() for value in module.parameters())
