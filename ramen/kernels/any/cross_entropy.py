"""Output head and loss in one: logits exist only a chunk of tokens at a time, and their gradient is formed in the forward pass.

The loss is a scalar, so its gradient is known up to a factor when the logits are at hand: each chunk yields its share of the
gradients of x and of the weight, and the backward pass multiplies. Matrix products take numbers of x's dtype, and where those
of bfloat16 are slower than float32's, float32's take the same numbers. Everything after is float32; that is `cross_entropy_rows`, a
row of logits at a time, which has twins in C and in Triton.
Losses on further tokens (`mtp`) change the gradient by a factor a row and a number a target:
    gradient = (1 + sum w) p - e_(t_1) - sum w_k e_(t_k)
Idea: Cut Cross-Entropy, Wijmans et al. 2024, arXiv 2411.09009; Liger kernel, arXiv 2410.10989.
Memory: chunk x V logits, whatever the number of tokens.
"""

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ramen.device import bfloat16_speed, compute_dtype, device_type
from ramen.kernels.compiler import opaque
from ramen.ops.cross_entropy import IGNORED, Form, Softcap, linear_cross_entropy
from ramen.ops.operation import operation, twin

# More do not help, fewer spend time adding up the gradient of the weight.
CHUNK_LOGITS = {"cpu": 1 << 24, "cuda": 1 << 28}


@twin(linear_cross_entropy)
def chunked(
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    vocabulary: int,
    softcap: Softcap | None,
    mtp: tuple[Tensor, Tensor] | None = None,
    chunk_tokens: int | None = None,
) -> Tensor:
    """linear_cross_entropy, `chunk_tokens` at a time."""
    if chunk_tokens is None:
        chunk_tokens = max(1, CHUNK_LOGITS.get(device_type(x), 1 << 24) // len(weight))
        chunk_tokens -= chunk_tokens % 128 if chunk_tokens > 128 else 0  # whole tiles of a matrix product
    x, targets = x.contiguous().to(compute_dtype(x)), targets.contiguous().long()
    # Asked here: needs_input_grad stays true under no_grad, and an evaluation would form gradients for nothing.
    differentiated = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    return _LinearCrossEntropy.apply(x, weight, targets, vocabulary, softcap, chunk_tokens, differentiated, mtp)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, targets: Tensor, vocabulary: int, softcap: Softcap | None, chunk_tokens: int,
        differentiated: bool, mtp: tuple[Tensor, Tensor] | None,
    ) -> Tensor:  # fmt: skip
        form: str = softcap.form if softcap else ""
        limit, shift, scale = (softcap.limit, softcap.shift, softcap.scale) if softcap else (1.0, 0.0, 1.0)
        total, grad_x, grad_weight = _in_chunks(
            x, weight, targets, vocabulary, form, float(limit), float(shift), float(scale), chunk_tokens, differentiated,
            *(mtp or (None, None)),
        )  # fmt: skip
        if differentiated:
            ctx.save_for_backward(grad_x, grad_weight)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_x, grad_weight = ctx.saved_tensors
        # In place: they are nobody else's, and a second backward pass is refused by torch's count of changes.
        return grad_x.mul_(grad), grad_weight.mul_(grad), None, None, None, None, None, None


def _shapes(x: Tensor, weight: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    total, differentiated = x.new_empty((), dtype=torch.float32), others[-3]
    like = (x, weight) if differentiated else (x.new_empty(0), weight.new_empty(0))
    return total, *map(torch.empty_like, like)  # type: ignore[return-value]


# Opaque, for a compiler would keep every chunk's share of the weight's gradient, and add them up at the end.
@opaque("linear_cross_entropy", _shapes)
def _in_chunks(
    x: Tensor, weight: Tensor, targets: Tensor, vocabulary: int, form: str, limit: float, shift: float, scale: float,
    chunk_tokens: int, differentiated: bool, further: Tensor | None, weights: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The summed loss and the gradients of x and of the weight, which are empty when not `differentiated`."""
    softcap = Softcap(cast("Form", form), limit, shift, scale) if form else None
    dtype = x.dtype
    narrowed = weight.to(dtype)
    if dtype == torch.bfloat16 and device_type(x) == "cpu" and bfloat16_speed() < 1:
        x, narrowed = x.float(), narrowed.float()
    grad_x = torch.empty_like(x) if differentiated else x.new_empty(0)
    sums = torch.empty_like if len(x) else torch.zeros_like  # the first chunk's is written, further ones are added
    grad_weight = sums(weight) if differentiated else weight.new_empty(0)
    total = x.new_zeros((), dtype=torch.float32)
    # One memory for the logits of all chunks: fresh memory is slow on a CPU, and twice as much on CUDA.
    room = x.new_empty(min(chunk_tokens, len(x)), len(weight))
    narrow = torch.empty_like(narrowed) if differentiated and narrowed.dtype != weight.dtype and not x.is_cuda else None
    with torch.autocast(x.device.type, enabled=False):
        for start in range(0, x.shape[0], chunk_tokens):
            chunk = slice(start, start + chunk_tokens)
            logits = torch.mm(x[chunk], narrowed.T, out=room[: len(x[chunk])])  # (n, V padded)
            mtp = None
            if further is not None and weights is not None:
                mtp = _FurtherLosses(logits, targets[chunk], further[chunk], weights, softcap)
            losses, grad = cross_entropy_rows(logits, targets[chunk], vocabulary, softcap, differentiated)
            # Not +=: what a function of torch's returns must not have been changed (torch 2.11 compiles it without a gradient).
            total = total + (mtp.join(losses, grad) if mtp else losses).sum()
            if grad is not None:
                torch.mm(grad, narrowed, out=grad_x[chunk])
                _add_product(grad_weight, grad.T, x[chunk], start == 0, narrow)
    return total, grad_x.to(dtype), grad_weight


def _add_product(total: Tensor, a: Tensor, b: Tensor, first: bool, narrow: Tensor | None) -> None:
    """total += a b, or total = a b if it is the `first`; `narrow` takes a product of a narrower type."""
    if total.dtype == a.dtype:
        total.addmm_(a, b, beta=0 if first else 1)
    elif narrow is None:  # on CUDA the product stays in float32, and in the multiplier
        torch.addmm(total, a, b, beta=0 if first else 1, out_dtype=total.dtype, out=total)
    elif first:
        total.copy_(torch.mm(a, b, out=narrow))
    else:
        add_widened(total, torch.mm(a, b, out=narrow))


@operation
def add_widened(total: Tensor, x: Tensor) -> None:
    """total += x, of a narrower type."""
    total += x


@operation
def cross_entropy_rows(
    logits: Tensor, targets: Tensor, vocabulary: int, softcap: Softcap | None, differentiated: bool
) -> tuple[Tensor, Tensor | None]:
    """Losses (n,) of raw logits (n, V padded), and their gradient with respect to them, in their dtype; may reuse their memory.

    Every step that can be is in place: this is where a small model spends its memory traffic.
    """
    dtype, padding = logits.dtype, logits.shape[1] - vocabulary
    curve, factor = None, 1.0
    logits = logits[:, :vocabulary].float()  # (n, V)
    if softcap:
        curve = _curve(softcap, logits)
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
        gradient *= _slope(softcap, curve)
    gradient = gradient.to(dtype)
    return loss, F.pad(gradient, (0, padding)) if padding else gradient


def _curve(softcap: Softcap, logits: Tensor) -> Tensor:
    """The softcap's curve of raw logits, in place; limit times it is the capped logit."""
    inner = logits.add_(softcap.shift).mul_(1 / softcap.scale)
    if softcap.form == "rsqrt":
        return inner.mul_(inner.square().add_(1).rsqrt_())
    return torch.sigmoid_(inner) if softcap.form == "sigmoid" else torch.tanh_(inner)


def _slope(softcap: Softcap, curve: Tensor) -> Tensor:
    """The derivative of the curve from its value, in place."""
    if softcap.form == "sigmoid":
        return curve.addcmul_(curve, curve, value=-1)
    slope = curve.square_().neg_().add_(1)
    return slope.pow_(1.5) if softcap.form == "rsqrt" else slope


def softcap_numbers(softcap: Softcap | None) -> tuple[bool, float, float, float]:
    """A softcap of sigmoid or tanh as kernels take it: True if there is one, and its limit, shift and scale as a sigmoid.

    limit tanh(u) = 2 limit sigmoid(2 u) - limit, and a constant makes no difference to a softmax.
    """
    if softcap is None:
        return False, 1.0, 0.0, 1.0
    times = 2.0 if softcap.form == "tanh" else 1.0
    return True, times * softcap.limit, float(softcap.shift), softcap.scale / times


class _FurtherLosses:
    """The further targets of some rows of logits, read before the logits' memory is used for their gradient."""

    def __init__(self, logits: Tensor, targets: Tensor, further: Tensor, weights: Tensor, softcap: Softcap | None):
        """Raw logits (n, V), next targets (n,), further ones (n, m) and their weights (m,)."""
        self.index = torch.cat((targets.unsqueeze(1), further), dim=1).clamp_min(0)  # (n, 1 + m)
        self.weights = (further != IGNORED) * weights  # (n, m)
        self.capped = logits.gather(1, self.index).float()
        self.slope = torch.ones_like(self.capped)
        if softcap:
            curve = _curve(softcap, self.capped)
            self.capped = curve * softcap.limit
            self.slope = _slope(softcap, curve).mul_(softcap.limit / softcap.scale)

    def join(self, losses: Tensor, gradient: Tensor | None) -> Tensor:
        """All losses (n,) from those of the next token; its gradient of the logits (n, V) becomes that of all, in place."""
        share = self.weights.sum(1, keepdim=True)  # (n, 1)
        if gradient is not None:
            gradient.mul_(1 + share)
            change = torch.cat((share, -self.weights), dim=1).mul_(self.slope)
            gradient.scatter_add_(1, self.index, change.to(gradient.dtype))
        behind = self.capped[:, :1] - self.capped[:, 1:]  # what a further target's loss is above the next one's
        return losses * (1 + share.squeeze(1)) + (self.weights * behind).sum(1)
