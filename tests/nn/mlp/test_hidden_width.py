"""Widths: as asked, or matched in parameters within one per cent and rounded for the hardware."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramen.nn.mlp.base import hidden_width


def gated(dim):
    """Parameters of an MLP with three maps, by width."""
    return lambda width: 3 * dim * width


def plain(dim):
    return lambda width: 2 * dim * width


@given(st.integers(1, 4096), st.floats(0.1, 16))
def test_unmatched_width_is_what_was_asked(dim, expansion):
    width = hidden_width(dim, expansion, None)
    assert isinstance(width, int) and width >= 1
    assert abs(width - dim * expansion) <= 0.5 or width == 1


@given(st.integers(1, 4096), st.floats(0.1, 16), st.sampled_from([plain, gated]))
def test_matched_width_has_a_plain_mlps_parameters_within_one_per_cent(dim, expansion, kind):
    width, target = hidden_width(dim, expansion, kind(dim)), 2 * expansion * dim**2
    step = kind(dim)(1)
    assert isinstance(width, int) and width >= 1
    assert abs(kind(dim)(width) - target) <= max(0.01 * target, 0.5 * step) or (width == 1 and target < step)


@given(st.integers(16, 1024), st.integers(1, 8))
def test_matches_a_count_that_is_quadratic_in_the_width(dim, depth):
    def count(width):
        return depth * width**2 + (2 * dim + depth + 1) * width

    width, target = hidden_width(dim, 4, count), 8 * dim**2
    nearest = min(abs(count(width + step) - target) for step in (-1, 0, 1))
    assert abs(count(width) - target) <= max(0.01 * target, nearest)


@pytest.mark.parametrize(
    ("dim", "expansion", "kind", "width"),
    [
        (128, 4, plain, 512),
        (256, 4, gated, 688),  # 682.67: 16 is the largest power of two within 1 %
        (768, 4, gated, 2048),
        (128, 3.0, plain, 384),
        (16, 4, gated, 43),
        (1, 0.1, gated, 1),
    ],
)
def test_matched_width_by_hand(dim, expansion, kind, width):
    assert hidden_width(dim, expansion, kind(dim)) == width
