"""Output head and loss in one: logits exist only a chunk of tokens at a time, and their gradient is formed in the forward pass.

The loss is a scalar, so its gradient is known up to a factor when the logits are at hand: each chunk yields its share of the
gradients of x and of the weight, and the backward pass multiplies. Matrix products take numbers of x's dtype, and where those
of bfloat16 are slower than float32's, float32's take the same numbers. Everything after is float32; that is one kernel, a row of
logits at a time, in C on a CPU (cross_entropy.c), in Triton on CUDA (cross_entropy_triton.py).
Idea: Cut Cross-Entropy, Wijmans et al. 2024, arXiv 2411.09009; Liger kernel, arXiv 2410.10989.
Memory: chunk x V logits, whatever the number of tokens.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ramen.device import bfloat16_speed, compute_dtype
from ramen.kernels.cpu.library import Library, kernels, triton_serves
from ramen.ops.multi_token_prediction import MTPLoss
from ramen.ops.softcap import Softcap

IGNORED = -100
# More do not help, fewer spend time adding up the gradient of the weight.
CHUNK_LOGITS = {"cpu": 1 << 24, "cuda": 1 << 28}


_sketched: str | None = None


@contextmanager
def sketched_as_on(kind: str) -> Iterator[None]:
    """Within, fake tensors of the CPU stand for those of that kind of device, and are treated as they will be there."""
    global _sketched
    before, _sketched = _sketched, kind
    try:
        yield
    finally:
        _sketched = before


def linear_cross_entropy(
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    vocabulary: int,
    softcap: Softcap | None,
    chunk_tokens: int | None = None,
    ahead: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Summed cross-entropy (float32 scalar, nats) of x (N, D) against targets (N,) under logits x weight^T (weight (V padded, D)).

    Targets of -100 count nothing; rows of the weight from `vocabulary` on never enter the softmax. `ahead`: further targets (N, m)
    and the weights (m,) of their losses (ramen.ops.multi_token_prediction).
    """
    if chunk_tokens is None:
        chunk_tokens = max(1, CHUNK_LOGITS.get(_kind(x), 1 << 24) // len(weight))
        chunk_tokens -= chunk_tokens % 128 if chunk_tokens > 128 else 0  # whole tiles of a matrix product
    x, targets = x.contiguous().to(compute_dtype(x)), targets.contiguous().long()
    # Asked here: needs_input_grad stays true under no_grad, and an evaluation would form gradients for nothing.
    differentiated = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    return _LinearCrossEntropy.apply(x, weight, targets, vocabulary, softcap, chunk_tokens, differentiated, ahead)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        targets: Tensor,
        vocabulary: int,
        softcap: Softcap | None,
        chunk_tokens: int,
        differentiated: bool,
        ahead: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        work = _opaque if torch.compiler.is_compiling() or x.is_cuda else _in_chunks
        total, grad_x, grad_weight = work(
            x, weight, targets, vocabulary, *_numbers(softcap), chunk_tokens, differentiated, *(ahead or (None, None))
        )
        if differentiated:
            ctx.save_for_backward(grad_x, grad_weight)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_x, grad_weight = ctx.saved_tensors
        # In place: they are nobody else's, and a second backward pass is refused by torch's count of changes.
        return grad_x.mul_(grad), grad_weight.mul_(grad), None, None, None, None, None, None


def _in_chunks(
    x: Tensor, weight: Tensor, targets: Tensor, vocabulary: int, capped: bool, limit: float, shift: float, scale: float,
    chunk_tokens: int, differentiated: bool, further: Tensor | None, weights: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The summed loss and the gradients of x and of the weight, which are empty when not `differentiated`."""
    softcap = Softcap("sigmoid", limit, shift, scale) if capped else None
    dtype = x.dtype
    cast = weight.to(dtype)
    if dtype == torch.bfloat16 and _kind(x) == "cpu" and bfloat16_speed() < 1:
        x, cast = x.float(), cast.float()
    grad_x = torch.empty_like(x) if differentiated else x.new_empty(0)
    sums = torch.empty_like if len(x) else torch.zeros_like  # the first chunk's is written, further ones are added
    grad_weight = sums(weight) if differentiated else weight.new_empty(0)
    total = x.new_zeros((), dtype=torch.float32)
    compiled = kernels("cross_entropy", x, weight, targets)
    rows = _triton_rows if triton_serves(x.device) else _rows
    # One memory for the logits of all chunks: fresh memory is slow on a CPU, and twice as much on CUDA.
    reuses = compiled is not None or x.is_cuda
    room = x.new_empty(min(chunk_tokens, len(x)) if reuses else 0, len(weight))
    share = torch.empty_like(cast) if compiled and differentiated and cast.dtype != weight.dtype else None
    with torch.autocast(x.device.type, enabled=False):
        for start in range(0, x.shape[0], chunk_tokens):
            chunk = slice(start, start + chunk_tokens)
            out = room[: len(x[chunk])] if reuses else None
            logits = torch.mm(x[chunk], cast.T, out=out)  # (n, V padded)
            ahead = None
            if further is not None and weights is not None:
                ahead = MTPLoss(logits, targets[chunk], further[chunk], weights, softcap)
            if compiled:
                losses, grad = _compiled_rows(compiled, logits, targets[chunk], vocabulary, softcap, differentiated)
            else:
                losses, grad = rows(logits, targets[chunk], vocabulary, softcap, differentiated)
            # Not +=: what a function of torch's returns must not have been changed (torch 2.11 compiles it without a gradient).
            total = total + (ahead.join(losses, grad) if ahead else losses).sum()
            if grad is not None:
                torch.mm(grad, cast, out=grad_x[chunk])
                _add_product(grad_weight, grad.T, x[chunk], start == 0, compiled, share)
    return total, grad_x.to(dtype), grad_weight


def _kind(x: Tensor) -> str:
    """The kind of device x is on, or stands for."""
    return _sketched or x.device.type


# Not for a compiler to look into: it would keep every chunk's share of the weight's gradient, and add them up at the end.
_opaque = torch.library.custom_op("ramen::linear_cross_entropy", _in_chunks, mutates_args=())


@_opaque.register_fake
def _(x: Tensor, weight: Tensor, *given: Any) -> tuple[Tensor, Tensor, Tensor]:
    total, differentiated = x.new_empty((), dtype=torch.float32), given[-3]
    like = (x, weight) if differentiated else (x.new_empty(0), weight.new_empty(0))
    return total, *map(torch.empty_like, like)  # type: ignore[return-value]


def _add_product(
    total: Tensor, a: Tensor, b: Tensor, first: bool, compiled: Library | None, room: Tensor | None
) -> None:
    """total += a b, or total = a b if it is the `first`; `room` takes the product where that is of a narrower type."""
    if total.dtype == a.dtype:
        total.addmm_(a, b, beta=0 if first else 1)
    elif total.is_cuda:  # the product stays in float32, and in the multiplier
        torch.addmm(total, a, b, beta=0 if first else 1, out_dtype=total.dtype, out=total)
    elif first:
        total.copy_(torch.mm(a, b, out=room))
    elif compiled and room is not None:
        compiled.accumulate(total, torch.mm(a, b, out=room), total.numel())
    else:
        total += a @ b


def _rows(
    logits: Tensor, targets: Tensor, vocabulary: int, softcap: Softcap | None, differentiated: bool
) -> tuple[Tensor, Tensor | None]:
    """Losses (n,) of raw logits (n, V padded), and their gradient with respect to them, in their dtype; may reuse their memory.

    Every step that can be is in place: this is where a small model spends its memory traffic.
    """
    dtype, padding = logits.dtype, logits.shape[1] - vocabulary
    curve, factor = None, 1.0
    logits = logits[:, :vocabulary].float()  # (n, V)
    if softcap:
        curve = softcap.curve_(logits.add_(softcap.shift).mul_(1 / softcap.scale))
        logits = curve * softcap.limit
        factor = softcap.limit / softcap.scale
    log_probability = F.log_softmax(logits, dim=-1)
    loss = F.nll_loss(log_probability, targets, ignore_index=IGNORED, reduction="none")
    if not differentiated:
        return loss, None
    gradient = log_probability.exp_()
    gradient.scatter_add_(1, targets.clamp_min(0).unsqueeze(1), gradient.new_full((1, 1), -1.0).expand(len(targets), 1))
    gradient *= ((targets != IGNORED) * factor).unsqueeze(1)
    if softcap and curve is not None:
        gradient *= softcap.slope_(curve)
    gradient = gradient.to(dtype)
    return loss, F.pad(gradient, (0, padding)) if padding else gradient


def _compiled_rows(
    compiled: Library,
    logits: Tensor,
    targets: Tensor,
    vocabulary: int,
    softcap: Softcap | None,
    differentiated: bool,
) -> tuple[Tensor, Tensor | None]:
    """The same by the kernel, in the memory of the logits."""
    losses = logits.new_empty(len(logits), dtype=torch.float32)
    numbers = _numbers(softcap)
    compiled.cross_entropy(logits, targets, losses, *logits.shape, vocabulary, *numbers, differentiated)
    return losses, logits if differentiated else None


def _triton_rows(
    logits: Tensor, targets: Tensor, vocabulary: int, softcap: Softcap | None, differentiated: bool
) -> tuple[Tensor, Tensor | None]:
    """The same on CUDA, in the memory of the logits."""
    from ramen.kernels.cuda.cross_entropy import cross_entropy_rows

    losses = cross_entropy_rows(logits, targets, vocabulary, *_numbers(softcap), differentiated)
    return losses, logits if differentiated else None


def _numbers(softcap: Softcap | None) -> tuple[bool, float, float, float]:
    """A softcap as kernels take it: whether there is one, and its limit, shift and scale as a sigmoid.

    limit tanh(u) = 2 limit sigmoid(2 u) - limit, and a constant makes no difference to a softmax.
    """
    if softcap is None:
        return False, 1.0, 0.0, 1.0
    times = 2.0 if softcap.form == "tanh" else 1.0
    return True, times * softcap.limit, float(softcap.shift), softcap.scale / times
