"""Widths that suit the hardware without changing what is compared."""

import bisect
from collections.abc import Callable

from ramen.ops.checks import check_range


def hidden_width(dim: int, expansion: float, count: Callable[[int], int] | None) -> int:
    """F of an MLP: expansion x dim; or, given `count` (F -> parameters), the F with a plain two-map MLP's parameters.

    Those are 2 expansion dim^2. A matched F is a multiple of the largest power of two (up to 128) within 1 % of them.
    """
    check_range("(0, inf)", expansion=expansion)
    if count is None:
        return max(1, round(expansion * dim))
    target = 2 * expansion * dim**2
    wide = 1
    while count(wide) < target:
        wide *= 2
    nearest = bisect.bisect_left(range(wide + 1), target, lo=1, key=count)
    if nearest > 1 and target - count(nearest - 1) < count(nearest) - target:
        nearest -= 1
    for multiple in (128, 64, 32, 16, 8, 4, 2):
        rounded = round(nearest / multiple) * multiple
        if rounded and abs(count(rounded) - target) <= 0.01 * target:
            return rounded
    return nearest


def padded_vocabulary(vocabulary: int, multiple: int) -> int:
    """The next multiple: rows beyond the vocabulary make aligned matrices and never enter the softmax."""
    check_range("[1, inf)", pad_to_multiple=multiple)
    return -(-vocabulary // multiple) * multiple
