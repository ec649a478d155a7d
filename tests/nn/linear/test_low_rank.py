"""LowRank: products used as Dense uses matrices, born with a dense matrix's variance, declared to the optimizer."""

import pytest
import torch

from ramen.errors import ConfigError
from ramen.nn.linear.low_rank import LowRank
from ramen.nn.parameter import initialise
from ramen.optimizer.spectron import factor_pairs


def make(
    rows: int = 6, columns: int = 8, stds: tuple[float, ...] = (1.0, 0.5, 1.0, 0.0), ratio: float = 0.5
) -> LowRank:
    module = LowRank(rows, columns, stds, ratio=ratio)
    initialise(module, 0)
    return module


@pytest.mark.parametrize(("first", "last"), [(0, None), (0, 3), (3, None), (1, 2)])
def test_products_of_the_range_side_by_side(first, last):
    module, x = make(), torch.randn(2, 3, 8)
    with torch.no_grad():
        module.left += 0.1
    expected = torch.cat([x @ matrix.T for matrix in (module.left @ module.right)[first:last]], dim=-1)
    torch.testing.assert_close(module(x, first, last), expected)


@pytest.mark.parametrize(("rows", "columns"), [(200, 300), (300, 100), (150, 150)])
@pytest.mark.parametrize("ratio", [0.25, 1.0])
def test_products_have_the_variance_asked_for_and_balanced_factors(rows, columns, ratio):
    module = make(rows, columns, (0.5, 0.01), ratio)
    product = module.left @ module.right
    assert product.std(dim=(1, 2)).tolist() == pytest.approx([0.5, 0.01], rel=0.05)
    assert product.mean().abs() < 0.01
    assert module.left.norm(dim=(1, 2)).tolist() == pytest.approx(module.right.norm(dim=(1, 2)).tolist(), rel=0.03)


def test_a_standard_deviation_of_zero_is_a_zero_product_that_learns():
    module = make(20, 30, (1.0, 0.0))
    assert not module(torch.randn(4, 30), 1).any()
    assert not module.left[1].any() and module.right[1].std().item() == pytest.approx(30**-0.5, rel=0.1)
    module(torch.randn(4, 30)).square().sum().backward()
    (module(torch.randn(4, 30), 1) * torch.randn(4, 20)).sum().backward()
    assert module.left.grad[1].any()


@pytest.mark.parametrize(
    ("rows", "columns", "ratio", "rank"), [(6, 8, 0.5, 3), (8, 6, 0.25, 2), (4, 4, 1.0, 4), (9, 5, 0.01, 1)]
)
def test_rank(rows, columns, ratio, rank):
    module = make(rows, columns, (1.0, 1.0), ratio)
    assert module.left.shape == (2, rows, rank) and module.right.shape == (2, rank, columns)


def test_every_matrix_has_factors_of_its_own():
    module = make(stds=(1.0, 1.0))
    assert not torch.equal(module.left[0], module.left[1]) and not torch.equal(module.right[0], module.right[1])


def test_declares_its_pair():
    module = make()
    ((left, right),) = factor_pairs(module.parameters())
    assert left is module.left and right is module.right
    assert factor_pairs([module.left]) == [] and factor_pairs([module.right]) == []
    assert left.role == right.role == "matrix"
    assert factor_pairs(module.to(torch.float64).parameters()) != []


def test_refusals():
    for ratio in (0.0, -1.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match=r"ratio must be in \(0, 1\]"):
            LowRank(4, 4, (1.0,), ratio=ratio)
    with pytest.raises(ConfigError, match="linear=dense"):
        make().normalise(-1)


def test_trains_under_autocast():
    module = make()
    with torch.autocast("cpu", torch.bfloat16):
        module(torch.randn(5, 8)).float().square().sum().backward()
    assert module.left.grad.dtype == torch.float32 and module.left.grad[:3].any()
