"""Rotary positions: which pair turns how fast, in each option that makes a table of angles once."""

import pytest
import torch

from ramen.nn.position.half_rope import HalfRoPE
from ramen.nn.position.rope import RoPE


def frequencies(kind: type, width: int, base: float) -> list[float]:
    """Radians a token of each pair that turns: base^(-2 i / K) of the whole head, or 1 ... 1 / base of the first half."""
    if kind is RoPE:
        return [base ** (-2 * i / width) for i in range(width // 2)]
    return [base ** (-i / max(1, width // 4 - 1)) for i in range(width // 4)]


@pytest.mark.parametrize("length", [50, 100_000])
@pytest.mark.parametrize(("width", "base"), [(8, 10_000.0), (16, 1024.0), (64, 100.0), (4, 500.0)])
@pytest.mark.parametrize("kind", [RoPE, HalfRoPE])
def test_each_pair_turns_by_its_frequency_exactly(kind, width, base, length):
    table, turning = kind(width, length, width, base=base).table, frequencies(kind, width, base)
    assert table.shape == (length, width // 2, 2)
    tokens = torch.tensor([0, 1, 7, length - 1])
    for i, frequency in enumerate(turning):
        angle = tokens.double() * frequency
        torch.testing.assert_close(table[tokens, i], torch.stack((angle.cos(), angle.sin()), dim=-1).float())


@pytest.mark.parametrize("kind", [RoPE, HalfRoPE])
def test_what_does_not_turn_stands_still_exactly(kind):
    x, position = (
        torch.randn(2, 30, 2, 3, 16, generator=torch.Generator().manual_seed(0)),
        kind(16, 30, 48, base=1024.0),
    )
    y, turning = position(x), position.turning
    assert torch.equal(y[..., turning:], x[..., turning:])
    assert (y[:, 1:, ..., :turning] != x[:, 1:, ..., :turning]).all()
    assert turning == (16 if kind is RoPE else 8)


@pytest.mark.parametrize("kind", [RoPE, HalfRoPE])
@pytest.mark.parametrize("base", [1.0, 0.5, -10.0])
def test_refuses_a_base_of_one_or_less(kind, base):
    with pytest.raises(ValueError, match=f"base must be > 1, got {base}"):
        kind(8, 4, 8, base=base)


def test_half_rope_refuses_what_cannot_be_halved_into_pairs():
    with pytest.raises(ValueError, match="head width must be divisible by 4, got 6"):
        HalfRoPE(6, 4, 12, base=1024.0)
