"""LowRank: the rank asked for, and balanced factors."""

import pytest
import torch

from ramen.nn.linear.low_rank import LowRank
from ramen.nn.parameter import initialise


def make(rows: int, columns: int, stds: tuple[float, ...], ratio: float) -> LowRank:
    module = LowRank(rows, columns, stds, ratio=ratio)
    initialise(module, 0)
    return module


@pytest.mark.parametrize(("rows", "columns"), [(200, 300), (300, 100), (150, 150)])
@pytest.mark.parametrize("ratio", [0.25, 1.0])
def test_factors_start_balanced(rows, columns, ratio):
    module = make(rows, columns, (0.5, 0.01), ratio)
    product = module.left @ module.right
    assert product.std(dim=(1, 2)).tolist() == pytest.approx([0.5, 0.01], rel=0.05)
    assert module.left.norm(dim=(1, 2)).tolist() == pytest.approx(module.right.norm(dim=(1, 2)).tolist(), rel=0.03)


def test_of_a_zero_product_the_right_factor_is_alive():
    module = make(20, 30, (1.0, 0.0), 0.5)
    assert not module.left[1].any() and module.right[1].std().item() == pytest.approx(30**-0.5, rel=0.1)


@pytest.mark.parametrize(
    ("rows", "columns", "ratio", "rank"), [(6, 8, 0.5, 3), (8, 6, 0.25, 2), (4, 4, 1.0, 4), (9, 5, 0.01, 1)]
)
def test_rank(rows, columns, ratio, rank):
    module = make(rows, columns, (1.0, 1.0), ratio)
    assert module.left.shape == (2, rows, rank) and module.right.shape == (2, rank, columns)
    assert not torch.equal(module.left[0], module.left[1]) and not torch.equal(module.right[0], module.right[1])


@pytest.mark.parametrize("ratio", [0.0, -1.0, 1.5, float("nan")])
def test_refuses_a_ratio_that_is_no_share(ratio):
    with pytest.raises(ValueError, match=r"ratio must be in \(0, 1\]"):
        LowRank(4, 4, (1.0,), ratio=ratio)
