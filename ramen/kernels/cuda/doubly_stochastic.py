"""Sinkhorn's scaling of many small matrices in one CUDA kernel, each in a thread's registers.

Only imported where there is Triton, which torch for CUDA brings along.
Cost: one read and one write of the matrices.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from ramen.ops.doubly_stochastic import scaled
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


@twin(scaled, "cuda")
def _(k: Tensor, iterations: int) -> Tensor:
    if k.dtype != torch.float32 or len(k) > LARGEST or isinstance(k, FakeTensor):
        return NotImplemented
    k, out = k.contiguous(), torch.empty_like(k)
    size, _, count = out.shape
    padded = triton.next_power_of_2(size)
    if count:
        programs = (triton.cdiv(count, TOKENS),)
        fixed = {"iterations": iterations, "size": size, "padded": padded, "tokens": TOKENS}
        _scale[programs](k, out, count, **fixed, num_warps=1)
    return out
