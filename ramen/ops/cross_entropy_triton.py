"""Softcap, softmax, cross-entropy and the gradient of the logits in one CUDA kernel, in the memory of the logits.

A program takes a row: one pass finds the largest logit and the sum (Milakov and Gimelshein 2018, arXiv 1805.02867), a second turns
logits into their gradient while they are still in the cache. Its plain torch twin is `_rows` of ramen.ops.cross_entropy.
Only imported where there is Triton, which torch for CUDA brings along.
Cost: two reads and one write of the logits.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

IGNORED = tl.constexpr(-100)
BLOCK = 4096
PLAIN, SIGMOID, TANH = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)


# Triton's compiler takes annotations for code: tl.constexpr is all that may stand there.
@triton.jit
def _curve(z, form: tl.constexpr):  # type: ignore[no-untyped-def]
    if form == PLAIN:
        return z
    if form == SIGMOID:
        return tl.sigmoid(z)
    e = tl.exp(-2 * tl.abs(z))
    return tl.where(z < 0, e - 1, 1 - e) / (1 + e)


@triton.jit
def _row(  # type: ignore[no-untyped-def]
    logits, targets, losses, limit, shift, inverse, stride: tl.constexpr, vocabulary: tl.constexpr,
    form: tl.constexpr, differentiated: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    logits += row * stride
    target = tl.load(targets + row)
    counts = target != IGNORED
    here = tl.arange(0, block)
    high, total, norm = float("-inf"), 0.0, 0.0
    if counts:
        for start in range(0, vocabulary, block):
            at = start + here
            z = tl.load(logits + at, mask=at < stride, other=0.0).to(tl.float32)
            capped = tl.where(at < vocabulary, limit * _curve((z + shift) * inverse, form), float("-inf"))
            higher = tl.maximum(high, tl.max(capped, 0))
            total = total * tl.exp(high - higher) + tl.sum(tl.exp(capped - higher), 0)
            high = higher
        norm = high + tl.log(total)
        known = (target >= 0) & (target < vocabulary)
        z = tl.load(logits + tl.where(known, target, 0)).to(tl.float32)
        loss = norm - limit * _curve((z + shift) * inverse, form)
        tl.store(losses + row, tl.where(known, loss, float("nan")))  # a target out of range must be seen
    else:
        tl.store(losses + row, 0.0)
    if differentiated:
        tl.debug_barrier()  # every thread has read the target's logit
        for start in range(0, stride, block):
            at = start + here
            z = tl.load(logits + at, mask=at < stride, other=0.0).to(tl.float32)
            curve = _curve((z + shift) * inverse, form)
            share = tl.exp(limit * curve - norm) - tl.where(at == target, 1.0, 0.0)
            slope = 1.0 if form == PLAIN else (curve - curve * curve if form == SIGMOID else 1 - curve * curve)
            gradient = tl.where(counts & (at < vocabulary), share * slope * (limit * inverse), 0.0)
            tl.store(logits + at, gradient.to(logits.dtype.element_ty), mask=at < stride)


def cross_entropy_rows(
    logits: Tensor, targets: Tensor, vocabulary: int, form: int, limit: float, shift: float, scale: float, differentiated: bool
) -> Tensor:  # fmt: skip
    """Losses (n) float32 of raw logits (n, V padded), contiguous; differentiated, the logits become their gradient."""
    losses = logits.new_empty(len(logits), dtype=torch.float32)
    if len(logits):
        _row[(len(logits),)](
            logits, targets, losses, limit, shift, 1 / scale, stride=logits.shape[1], vocabulary=vocabulary,
            form=form, differentiated=differentiated, block=BLOCK, num_warps=16,
        )  # fmt: skip
    return losses
