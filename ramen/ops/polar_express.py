"""Polar Express: the polar factor U V^T of X = U S V^T by minimax quintics.

Every step is the odd quintic that brings [lower, upper], the interval still to be covered, closest to 1; the next step
starts from the interval it leaves. Against Newton-Schulz, which repeats one polynomial, small singular values grow
fastest first and the last steps converge.
Source: Amsel, Persson, Musco, Gower, "The Polar Express", arXiv 2505.16932.
Cost: 20 s^2 l + 10 s^3 FLOPs for 5 steps on an m x n matrix (s short side, l long side); less in the Gram form
(ramen.kernels).
Differs from the source: the coefficients are computed for the number of steps asked for (a schedule cut short is not a
schedule), and the normalisation is purely relative, so f(cX) = f(X) for every c > 0 that the type can hold.

Bands (exact arithmetic, sigma / ||X||_F >= 1e-3): 5 steps [0.846, 1.142], 6 steps [0.996, 1.002], 7 and more 1.0000.
Below 1e-3 the result grows linearly with sigma, with slope 970 at 5 steps.
"""

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ramen.ops.newton_schulz import Quintic, apply_quintics

NORM_FACTOR = 1.02  # headroom for rounding: the largest singular value starts at 0.98 or less


def polar_express(x: Tensor, *, steps: int = 5, dtype: torch.dtype | None = torch.bfloat16) -> Tensor:
    """Approximate polar factor of each matrix of x (..., m, n); x's shape and dtype, zero for a zero matrix.

    dtype is the type of the iteration; None: x's own, or float32 for a 16-bit x.
    """
    return apply_quintics(x, schedule(steps), norm_factor=NORM_FACTOR, dtype=dtype)


def schedule(steps: int) -> tuple[Quintic, ...]:
    """The coefficients in use: for 5 steps the usual ones (modded-nanogpt, Dion), else by the authors' settings."""
    if steps == 5:
        return coefficients(5, lower=1e-3, safety=1.02, cushion=0.02)
    return coefficients(steps, lower=1e-3, safety=1.01, cushion=0.02407327424182761)


@lru_cache
def coefficients(steps: int, lower: float, safety: float, cushion: float) -> tuple[Quintic, ...]:
    """Composition of minimax quintics for singular values in [lower, 1].

    cushion: no step is designed for an interval wider than [cushion * upper, upper], then it is rescaled to centre
    [lower, upper] on 1: singular values between are not pushed near zero. safety: every step but the last takes its
    argument as if divided by this factor, so that rounding cannot leave the interval the next step was made for.
    """
    quintics = []
    upper = 1.0
    for step in range(steps):
        a, b, c = _minimax_quintic(max(lower, cushion * upper), upper)
        centre = (_evaluate((a, b, c), lower) + _evaluate((a, b, c), upper)) / 2
        shrink = 1.0 if step == steps - 1 else safety
        quintic = (a / centre / shrink, b / centre / shrink**3, c / centre / shrink**5)
        quintics.append(quintic)
        lower = _evaluate(quintic, lower)
        upper = 2 - lower
    return tuple(quintics)


def _minimax_quintic(lower: float, upper: float) -> Quintic:
    """The (a, b, c) that minimises max |1 - (ax + bx^3 + cx^5)| over [lower, upper]: Remez exchange on four points."""
    if lower / upper > 1 - 1e-3:  # the limit, to 3e-10; rounding makes the linear system below singular there
        middle = (lower + upper) / 2
        return 15 / 8 / middle, -10 / 8 / middle**3, 3 / 8 / middle**5
    inner = np.array([3 * lower + upper, lower + 3 * upper]) / 4  # exact as lower -> upper
    error = math.inf
    for _ in range(100):
        points = np.array([lower, *inner, upper])
        system = np.stack([points, points**3, points**5, np.array([1.0, -1.0, 1.0, -1.0])], axis=1)
        a, b, c, new_error = np.linalg.solve(system, np.ones(4))
        root = math.sqrt(9 * b * b - 20 * a * c)
        inner = np.sqrt((-3 * b + np.array([-root, root])) / (10 * c))  # stationary points of the quintic
        if abs(new_error - error) < 1e-15:
            break
        error = new_error
    return float(a), float(b), float(c)


def _evaluate(quintic: Quintic, x: float) -> float:
    a, b, c = quintic
    return a * x + b * x**3 + c * x**5
