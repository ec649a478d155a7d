"""A bank: matrices of one shape stacked (N, m, n), and the two passes over memory every matrix optimizer makes.

accumulate   gradients into a bank of momentum, and Nesterov's
descend      a bank of directions into the weights, with decay
Cost: bound by memory; here 8 and 18 passes, in as many kernels however many matrices there are, and one pass each in their twins.
"""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ramen.ops.operation import operation

Factor = float | Tensor


def upcast(x: Tensor) -> Tensor:
    """x itself, or a 16-bit one in float32."""
    return x if x.dtype.itemsize >= 4 else x.float()


def stack(tensors: Iterable[Tensor]) -> Tensor:
    """(N, m, n) in float32 or wider, of tensors (..., m, n); always a copy."""
    return upcast(torch.cat([t.reshape(-1, *t.shape[-2:]) for t in tensors]))


def unstack(bank: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Views of a bank (N, ...), one for each tensor (..., m, n), in its leading shape."""
    parts = bank.split([math.prod(t.shape[:-2]) for t in like])
    return [part.view((*t.shape[:-2], *bank.shape[1:])) for part, t in zip(parts, like, strict=True)]


def amax(x: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """The largest size along axes that are kept, without the copy that abs makes."""
    if x.is_cuda:  # one kernel in place of four; on a CPU it takes ten times as long
        return torch.linalg.vector_norm(x, math.inf, dim=dim, keepdim=True)
    return torch.maximum(x.amax(dim=dim, keepdim=True), x.amin(dim=dim, keepdim=True).neg_())


def frobenius(bank: Tensor) -> Tensor:
    """Frobenius norms (N, 1, 1) of a bank, of which no square over- or underflows."""
    unit = amax(bank, (-2, -1)).clamp_min_(torch.finfo(bank.dtype).tiny)
    return torch.linalg.vector_norm(bank / unit, dim=(-2, -1), keepdim=True).mul_(unit)


def is_zero(factor: Factor) -> bool:
    """True for a number that is 0, False for a tensor, which may become anything."""
    return not isinstance(factor, Tensor) and factor == 0


def add(into: Tensor, x: Tensor, factor: Factor) -> Tensor:
    """into + factor x, in place."""
    return into.addcmul_(x, factor.to(into.dtype)) if isinstance(factor, Tensor) else into.add_(x, alpha=factor)


@operation
def accumulate(gradients: list[Tensor], momentum: Tensor, *, beta: Factor, nesterov: bool) -> Tensor:
    """momentum (N, m, n) <- lerp(momentum, gradients, 1 - beta), in place; returns it, or a new lerp(gradients, momentum, beta)."""
    if isinstance(beta, Tensor):
        beta = beta.to(momentum.dtype)
    gradient = stack(gradients)
    momentum.lerp_(gradient, 1 - beta)
    return gradient.lerp_(momentum, beta) if nesterov else momentum


@operation
def descend(
    weights: Sequence[Tensor], direction: Tensor, *, rate: Factor, decay: Factor, cautious: bool, decay_target: Tensor | None,
    step_scale: Tensor | None, radius: Tensor | None,
) -> None:  # fmt: skip
    """W <- W - decay mask X - rate step_scale D in place, for a direction D (N, m, n); mask is 1, or when cautious 1[D W >= 0].

    X is `decay_target` (N, m, n), or W. step_scale (N, 1, 1) is 1 when None. radius (N): each W then goes to this Frobenius norm;
    where that is 0, into the ball of sqrt(m).
    """
    weight = stack(weights)
    if not is_zero(decay):
        decay_target = weight if decay_target is None else decay_target
        if cautious:
            decay_target = (direction * weight).ge_(0).mul_(decay_target)
        add(weight, decay_target, -decay)
    add(weight, direction, -rate if step_scale is None else -rate * step_scale)
    if radius is not None:
        norm = torch.linalg.vector_norm(weight, dim=(-2, -1)).clamp_min(torch.finfo(weight.dtype).tiny)
        inside = (math.sqrt(weight.shape[-2]) / norm).clamp_max(1.0)
        weight.mul_(torch.where(radius > 0, radius / norm, inside)[:, None, None])
    torch._foreach_copy_(list(weights), unstack(weight, weights))


def warm(like: Tensor, *, nesterov: bool, decay: Factor, cautious: bool) -> None:
    """Step a few zeros on a GPU, so that no kernel is compiled in the first step of a run."""
    if like.is_cuda:
        bank = torch.zeros(1, 4, 4, device=like.device)
        accumulate([bank], bank.clone(), beta=0.0, nesterov=nesterov)
        descend([bank], bank, rate=0.0, decay=decay, cautious=cautious, decay_target=None, step_scale=None, radius=None)
