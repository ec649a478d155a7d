"""RoPE: which pair turns how fast."""

import pytest
import torch

from ramen.nn.position.rope import RoPE


@pytest.mark.parametrize("base", [10_000.0, 500.0])
def test_pair_i_turns_by_base_to_the_minus_two_i_over_width(base):
    width, length = 8, 50
    table = RoPE(width, length, base=base).table
    for i in range(width // 2):
        angle = torch.arange(length, dtype=torch.float64) * base ** (-2 * i / width)
        torch.testing.assert_close(table[:, i], torch.stack((angle.cos(), angle.sin()), dim=-1).float())


def test_angles_are_exact_far_from_the_start():
    angles = 99_999 * 500.0 ** -(torch.arange(4, dtype=torch.float64) / 4)
    table = RoPE(8, 100_000, base=500.0).table
    torch.testing.assert_close(table[-1], torch.stack((angles.cos(), angles.sin()), dim=-1).float())


def test_every_dimension_moves():
    x = torch.ones(1, 2, 8)
    assert ((RoPE(8, 2, base=10_000.0)(x) - x)[0, 1] != 0).all()


@pytest.mark.parametrize("base", [1.0, 0.5, -10.0])
def test_refuses_a_base_of_one_or_less(base):
    with pytest.raises(ValueError, match=f"base must be > 1, got {base}"):
        RoPE(8, 4, base=base)
