"""Half-truncated RoPE: half of the dimensions turn, the others never do."""

import pytest
import torch

from ramen.nn.position.half_rope import HalfRoPE


@pytest.mark.parametrize(("width", "base"), [(16, 1024.0), (64, 100.0), (4, 1024.0)])
def test_the_first_half_turns_with_both_end_points_included(width, base):
    """Frequencies (1 / base)^(i / (n - 1)) for n = width / 4 pairs: 1, ..., 1 / base."""
    length, moving = 30, width // 4
    table = HalfRoPE(width, length, base=base).table
    assert table.shape == (length, width // 2, 2)
    for i in range(moving):
        angle = torch.arange(length, dtype=torch.float64) * base ** (-i / max(1, moving - 1))
        torch.testing.assert_close(table[:, i], torch.stack((angle.cos(), angle.sin()), dim=-1).float())


def test_angles_are_exact_far_from_the_start():
    angles = 99_999 * 1024.0 ** -(torch.arange(4, dtype=torch.float64) / 3)
    table = HalfRoPE(16, 100_000, base=1024.0).table
    torch.testing.assert_close(table[-1, :4], torch.stack((angles.cos(), angles.sin()), dim=-1).float())


def test_the_second_half_stands_still_exactly():
    x = torch.randn(2, 30, 2, 3, 16, generator=torch.Generator().manual_seed(0))
    y = HalfRoPE(16, 30, base=1024.0)(x)
    assert torch.equal(y[..., 8:], x[..., 8:])
    assert (y[:, 1:, ..., :8] != x[:, 1:, ..., :8]).all()


def test_refuses_what_cannot_be_halved_into_pairs():
    with pytest.raises(ValueError, match="head width must be divisible by 4, got 6"):
        HalfRoPE(6, 4, base=1024.0)
    with pytest.raises(ValueError, match=r"base must be > 1, got 1\.0"):
        HalfRoPE(8, 4, base=1.0)
