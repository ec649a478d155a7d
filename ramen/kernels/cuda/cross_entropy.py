"""Softcap, softmax, cross-entropy and the gradient of the logits in one CUDA kernel, in the memory of the logits.

A program takes a row: one pass finds the largest logit and the sum (Milakov and Gimelshein 2018, arXiv 1805.02867), a second turns
logits into their gradient while they are still in the cache.
Only imported where there is Triton, which torch for CUDA brings along.
Cost: two reads and one write of the logits, and 27 instructions a logit (13 without a softcap), 5 of them (2) by the special
function units: with a softcap these, not memory, take the time. Hence powers of two in place of e, and a third of a division.
"""

import math
import os

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from ramen.kernels.any.cross_entropy import cross_entropy_rows, softcap_numbers
from ramen.ops.cross_entropy import Softcap
from ramen.ops.operation import twin

IGNORED = tl.constexpr(-100)
LOG2E = math.log2(math.e)
LN2, LOWEST = tl.constexpr(math.log(2)), tl.constexpr(-1e38)
BLOCK, EACH = 4096, 8  # logits that a program, and a thread of it, take at once
WARPS = 16  # a program: with fewer, more rows would be worked on at a time than the cache holds
# The GPU's own instructions, to 2 units in the last place. Triton's care for numbers below 1e-38, with three more each.
APPROXIMATE = tl.constexpr(os.environ.get("TRITON_INTERPRET") != "1")
EXP2 = tl.constexpr("ex2.approx.ftz.f32 $0, $1;")
# 1 / (1 + 2^x) of two x: 1 / a = b / (a b), so one division serves both. Beyond 2^60 it is 0 to every sum of logits.
SIGMOIDS = tl.constexpr("""{
    .reg .f32 a, b, p;
    min.NaN.f32 a, $2, 0f42700000;
    min.NaN.f32 b, $3, 0f42700000;
    ex2.approx.ftz.f32 a, a;
    ex2.approx.ftz.f32 b, b;
    add.f32 a, a, 0f3F800000;
    add.f32 b, b, 0f3F800000;
    mul.f32 p, a, b;
    rcp.approx.ftz.f32 p, p;
    mul.f32 $0, b, p;
    mul.f32 $1, a, p;
}""")


# Triton's compiler takes annotations for code: tl.constexpr is all that may stand there.
@triton.jit
def _exp2(x):
    if APPROXIMATE:
        return tl.inline_asm_elementwise(EXP2, "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)
    return tl.exp2(x)


@triton.jit
def _curve(logits, slope, offset, capped: tl.constexpr):  # type: ignore[no-untyped-def]
    z = logits.to(tl.float32)
    if not capped:
        return z
    x = z * slope + offset
    if APPROXIMATE and len(x.shape) == 2:  # a thread has pairs of them; a number alone would get any partner
        return tl.inline_asm_elementwise(SIGMOIDS, "=f,=f,f,f", [x], dtype=tl.float32, is_pure=True, pack=2)
    return 1 / (1 + _exp2(x))


@triton.jit
def _add(c, high, total, height):
    higher = tl.maximum(high, tl.max(c, 1))  # of each thread
    fresh = tl.sum(_exp2(c * height - (higher * height)[:, None]), 1)
    return higher, total * _exp2((high - higher) * height) + fresh


@triton.jit
def _gradient(c, height, less, capped: tl.constexpr):  # type: ignore[no-untyped-def]
    share = _exp2(c * height + less)
    return share * (c - c * c) if capped else share


@triton.jit
def _row(  # type: ignore[no-untyped-def]
    logits, targets, losses, height, slope, offset, gain, lift, stride: tl.constexpr, vocabulary: tl.constexpr,
    capped: tl.constexpr, differentiated: tl.constexpr, block: tl.constexpr, each: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    logits += row * stride
    target = tl.load(targets + row)
    known = (target >= 0) & (target < vocabulary)
    aim = _curve(tl.load(logits + tl.where(known, target, 0)), slope, offset, capped)
    columns = tl.arange(0, block // each)[:, None] * each + tl.arange(0, each)[None, :]
    whole: tl.constexpr = vocabulary // block * block
    norm, loss = float("inf"), 0.0  # an ignored row has shares of 2^-inf
    if target != IGNORED:
        high = tl.full((block // each,), LOWEST, tl.float32)
        total = tl.zeros((block // each,), tl.float32)
        for start in range(0, whole, block):
            c = _curve(tl.load(logits + start + columns), slope, offset, capped)
            high, total = _add(c, high, total, height)
        if whole < vocabulary:
            inside = whole + columns < vocabulary
            c = _curve(tl.load(logits + whole + columns, mask=inside, other=0.0), slope, offset, capped)
            high, total = _add(tl.where(inside, c, float("-inf")), high, total, height)
        top = tl.max(high, 0)
        norm = top * height + tl.log2(tl.sum(total * _exp2((high - top) * height), 0))
        loss = tl.where(known, (norm - aim * height) * LN2, float("nan"))  # a target out of range must be seen
    tl.store(losses + row, loss)
    if differentiated:
        tl.debug_barrier()  # every thread has read the target's logit
        for start in range(0, whole, block):
            c = _curve(tl.load(logits + start + columns), slope, offset, capped)
            tl.store(logits + start + columns, _gradient(c, height, lift - norm, capped).to(logits.dtype.element_ty))
        for start in range(whole, stride, block):
            inside = start + columns < stride
            c = _curve(tl.load(logits + start + columns, mask=inside, other=0.0), slope, offset, capped)
            gradient = tl.where(start + columns < vocabulary, _gradient(c, height, lift - norm, capped), 0.0)
            tl.store(logits + start + columns, gradient.to(logits.dtype.element_ty), mask=inside)
        if known:
            tl.debug_barrier()  # the target's gradient has been written like any other's
            gradient = (_exp2(aim * height - norm) - 1) * gain
            if capped:
                gradient *= aim - aim * aim
            tl.store(logits + target, gradient.to(logits.dtype.element_ty))


@twin(cross_entropy_rows, "cuda")
def _(
    logits: Tensor, targets: Tensor, vocabulary: int, softcap: Softcap | None, differentiated: bool
) -> tuple[Tensor, Tensor | None]:
    if isinstance(logits, FakeTensor) or (softcap and softcap.form == "rsqrt"):
        return NotImplemented
    losses = row_losses(logits, targets, vocabulary, *softcap_numbers(softcap), differentiated)
    return losses, logits if differentiated else None


def row_losses(
    logits: Tensor, targets: Tensor, vocabulary: int, capped: bool, limit: float, shift: float, scale: float, differentiated: bool
) -> Tensor:  # fmt: skip
    """Losses (n) float32 of raw logits (n, V padded), contiguous; differentiated, the logits become their gradient."""
    losses = logits.new_empty(len(logits), dtype=torch.float32)
    gain, inner = (limit / scale, -LOG2E / scale) if capped else (1.0, 0.0)
    height = limit * LOG2E if capped else LOG2E
    if len(logits):
        _row[(len(logits),)](
            logits, targets, losses, height, inner, shift * inner, gain, math.log2(gain), stride=logits.shape[1],
            vocabulary=vocabulary, capped=capped, differentiated=differentiated, block=BLOCK, each=EACH, num_warps=WARPS,
        )  # fmt: skip
    return losses
