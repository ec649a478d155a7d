"""Sinkhorn's scaling of many small matrices in one CUDA kernel, each in a thread's registers.

Only imported where there is Triton, which torch for CUDA brings along.
Cost: one read and one write of the matrices; the backward pass reads two. It finds the scales again for each of its steps, which
is n^2 / 2 iterations for n, rather than keep them.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from ramen.kernels.any.doubly_stochastic import scale_axes, scale_axes_backward
from ramen.ops.operation import twin

LARGEST = 8  # rows of a matrix: more would not fit a thread's registers
TOKENS = 32  # matrices a program takes, one for each thread of its warp


# Triton's compiler takes annotations for code: tl.constexpr is all that may stand there.
@triton.jit
def _places(count, size: tl.constexpr, padded: tl.constexpr, tokens: tl.constexpr):  # type: ignore[no-untyped-def]
    i, j = tl.arange(0, padded)[:, None, None], tl.arange(0, padded)[None, :, None]
    n = tl.program_id(0) * tokens + tl.arange(0, tokens)[None, None, :]
    return (i * size + j).to(tl.int64) * count + n, (i < size) & (j < size) & (n < count), n < count


@triton.jit
def _next(k, rows, real):
    columns = tl.where(real, 1 / tl.sum(k * rows[:, None, :], 0), 0.0)
    return columns, tl.where(real, 1 / tl.sum(k * columns[None, :, :], 1), 0.0)


@triton.jit
def _scale(  # type: ignore[no-untyped-def]
    matrices, out, count, iterations: tl.constexpr, size: tl.constexpr, padded: tl.constexpr, tokens: tl.constexpr
):  # fmt: skip
    at, inside, there = _places(count, size, padded, tokens)
    real = tl.arange(0, padded)[:, None] < size
    k = tl.where(there, tl.load(matrices + at, mask=inside, other=0.0), 1.0)
    rows = tl.where(real, tl.full((padded, tokens), 1.0, tl.float32), 0.0)
    columns = rows
    for _ in range(iterations):
        columns, rows = _next(k, rows, real)
    tl.store(out + at, k * rows[:, None, :] * columns[None, :, :], mask=inside)


@triton.jit
def _scale_backward(  # type: ignore[no-untyped-def]
    gradients, matrices, out, count, iterations: tl.constexpr, size: tl.constexpr, padded: tl.constexpr,
    tokens: tl.constexpr,
):  # fmt: skip
    at, inside, there = _places(count, size, padded, tokens)
    real = tl.arange(0, padded)[:, None] < size
    k = tl.where(there, tl.load(matrices + at, mask=inside, other=0.0), 1.0)
    grad = tl.load(gradients + at, mask=inside, other=0.0)
    ones = tl.where(real, tl.full((padded, tokens), 1.0, tl.float32), 0.0)
    rows = ones
    columns = ones
    for _ in range(iterations):
        columns, rows = _next(k, rows, real)
    grad_row = tl.sum(grad * k * columns[None, :, :], 1)
    grad_column = tl.sum(grad * k * rows[:, None, :], 0)
    grad_k = grad * rows[:, None, :] * columns[None, :, :]
    for step in range(iterations):
        before = ones
        for _ in range(iterations - 1 - step):
            columns, before = _next(k, before, real)
        columns, rows = _next(k, before, real)
        row = -grad_row * rows * rows  # of the sums that the rows' scales are the inverses of
        grad_k += row[:, None, :] * columns[None, :, :]
        column = -(grad_column + tl.sum(k * row[:, None, :], 0)) * columns * columns
        grad_k += before[:, None, :] * column[None, :, :]
        grad_row = tl.sum(k * column[None, :, :], 1)
        grad_column = tl.zeros((padded, tokens), tl.float32)
    tl.store(out + at, grad_k, mask=inside)


@twin(scale_axes, "cuda")
def scaled(k: Tensor, iterations: int) -> Tensor:
    return _launch(_scale, iterations, k)


@twin(scale_axes_backward, "cuda")
def scaled_backward(grad: Tensor, k: Tensor, iterations: int) -> Tensor:
    return _launch(_scale_backward, iterations, grad, k)


def _launch(kernel: Any, iterations: int, *given: Tensor) -> Tensor:
    matrices = given[-1]
    if matrices.dtype != torch.float32 or len(matrices) > LARGEST or isinstance(matrices, FakeTensor):
        return NotImplemented
    out = torch.empty_like(matrices)
    size, _, count = out.shape
    padded = triton.next_power_of_2(size)
    if count:
        programs = (triton.cdiv(count, TOKENS),)
        fixed = {"iterations": iterations, "size": size, "padded": padded, "tokens": TOKENS}
        kernel[programs](*given, out, count, **fixed, num_warps=1)
    return out
