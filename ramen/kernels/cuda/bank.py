"""A bank's two passes over memory in one CUDA kernel each, for up to eight tensors at a time.

Only imported where there is Triton, which torch for CUDA brings along.
Cost: accumulate four numbers read or written a weight, descend three, with what decays in a weight's place four.
"""

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from ramen.ops import bank
from ramen.ops.bank import Factor
from ramen.ops.operation import twin

PLACES = 8  # tensors a launch takes
BLOCK = 1024


# Triton's compiler takes annotations for code: tl.constexpr is all that may stand there. Where a launch begins, `first`, is of no
# interest to it.
@triton.jit
def _at(p0, p1, p2, p3, p4, p5, p6, p7):
    which = tl.program_id(1)
    p = tl.where(which == 1, p1, p0)
    p = tl.where(which == 2, p2, p)
    p = tl.where(which == 3, p3, p)
    p = tl.where(which == 4, p4, p)
    p = tl.where(which == 5, p5, p)
    p = tl.where(which == 6, p6, p)
    return tl.where(which == 7, p7, p)


@triton.jit(do_not_specialize=["first"])
def _accumulate(  # type: ignore[no-untyped-def]
    g0, g1, g2, g3, g4, g5, g6, g7, momentum, used, beta, first, count, nesterov: tl.constexpr, block: tl.constexpr
):  # fmt: skip
    within = tl.program_id(0) * block + tl.arange(0, block)
    inside = within < count
    at = (first + tl.program_id(1)).to(tl.int64) * count + within
    factor = tl.load(beta)
    g = tl.load(_at(g0, g1, g2, g3, g4, g5, g6, g7) + within, mask=inside, other=0.0)
    m = tl.load(momentum + at, mask=inside, other=0.0)
    m += (1 - factor) * (g - m)
    tl.store(momentum + at, m, mask=inside)
    if nesterov:
        tl.store(used + at, g + factor * (m - g), mask=inside)


@triton.jit(do_not_specialize=["first"])
def _descend(  # type: ignore[no-untyped-def]
    w0, w1, w2, w3, w4, w5, w6, w7, direction, decay_target, step_scale, rate, decay, first, count, elements,
    cautious: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    within = tl.program_id(0) * block + tl.arange(0, block)
    inside = within < count
    tensor = (first + tl.program_id(1)).to(tl.int64)
    at = tensor * count + within
    weight = _at(w0, w1, w2, w3, w4, w5, w6, w7) + within
    w = tl.load(weight, mask=inside, other=0.0)
    d = tl.load(direction + at, mask=inside, other=0.0)
    step = tl.load(rate) * d
    if step_scale is not None:
        step *= tl.load(step_scale + tensor * (count // elements) + within // elements, mask=inside, other=0.0)
    if decay is not None:
        x = w
        if decay_target is not None:
            x = tl.load(decay_target + at, mask=inside, other=0.0)
        if cautious:
            x = tl.where(d * w >= 0, x, 0.0)
        w -= tl.load(decay) * x
    tl.store(weight, w - step, mask=inside)


@twin(bank.accumulate, "cuda")
def accumulate(gradients: list[Tensor], momentum: Tensor, *, beta: Factor, nesterov: bool) -> Tensor:
    if not _takes(momentum, gradients):
        return NotImplemented
    used = torch.empty_like(momentum) if nesterov else None
    operands = (momentum, used if used is not None else momentum, _on_device(beta, momentum))
    _launch(_accumulate, gradients, *operands, nesterov=nesterov)
    return momentum if used is None else used


@twin(bank.descend, "cuda")
def descend(
    weights: Sequence[Tensor], direction: Tensor, *, rate: Factor, decay: Factor, cautious: bool,
    decay_target: Tensor | None, step_scale: Tensor | None, radius: Tensor | None,
) -> None:  # fmt: skip
    if radius is not None or not _takes(direction, weights, *(t for t in (decay_target, step_scale) if t is not None)):
        return NotImplemented
    factors = _on_device(rate, direction), None if bank.is_zero(decay) else _on_device(decay, direction)
    elements = direction[0].numel()
    _launch(_descend, weights, direction, decay_target, step_scale, *factors, elements=elements, cautious=cautious)
    return None


def _takes(stacked: Tensor, tensors: Sequence[Tensor], *more: Tensor) -> bool:
    """True for contiguous float32, and tensors of one size."""
    alike = all(t.dtype == torch.float32 and t.is_contiguous() for t in (stacked, *tensors, *more))
    sizes = {t.numel() for t in tensors}
    return (
        alike
        and stacked.numel() > 0
        and len(sizes) == 1
        and max(sizes) < 1 << 30
        and not isinstance(stacked, FakeTensor)
    )


def _launch(kernel: Any, tensors: Sequence[Tensor], *operands: Tensor | None, **numbers: int) -> None:
    count = tensors[0].numel()
    for first in range(0, len(tensors), PLACES):
        launched = [*tensors[first : first + PLACES]]
        grid = (triton.cdiv(count, BLOCK), len(launched))
        launched += launched[:1] * (PLACES - len(launched))
        kernel[grid](*launched, *operands, first=first, count=count, **numbers, block=BLOCK)


def _on_device(number: Factor, like: Tensor) -> Tensor:
    return number if isinstance(number, Tensor) else torch.full((), float(number), device=like.device)
