"""A step of AdamW with cautious decay in one CUDA kernel a tensor.

Only imported where there is Triton, which torch for CUDA brings along.
Cost: four reads and three writes a weight.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from ramen.kernels.any.adamw import bias_corrections
from ramen.ops.adamw import Tensors, cautious_adamw
from ramen.ops.operation import twin

BLOCK = 1024


# Triton's compiler takes annotations for code: tl.constexpr is all that may stand there. One kernel serves every place of a list,
# and a rate wherever among the scheduled ones it stands.
@triton.jit(do_not_specialize=["place", "tensors"], do_not_specialize_on_alignment=["lr"])
def _step(  # type: ignore[no-untyped-def]
    weights, gradients, firsts, seconds, corrections, lr, place, tensors, count, new1, beta2, new2, eps, decay,
    block: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = at < count
    rate = tl.load(lr)
    w = tl.load(weights + at, mask=inside, other=0.0)
    g = tl.load(gradients + at, mask=inside, other=0.0)
    m = tl.load(firsts + at, mask=inside, other=0.0)
    v = tl.load(seconds + at, mask=inside, other=0.0)
    m += new1 * (g - m)
    v = beta2 * v + new2 * g * g
    agree = ((m > 0) & (w > 0)) | ((m < 0) & (w < 0))
    step = m / (tl.sqrt(v) / tl.load(corrections + tensors + place) + eps)
    w -= tl.where(agree, rate * decay * w, 0.0)
    w -= rate / tl.load(corrections + place) * step
    tl.store(weights + at, w, mask=inside)
    tl.store(firsts + at, m, mask=inside)
    tl.store(seconds + at, v, mask=inside)


@twin(cautious_adamw, "cuda")
def _(
    weights: Tensors, gradients: Tensors, firsts: Tensors, seconds: Tensors, steps: Tensors, *,
    lr: float | Tensor, beta1: float, beta2: float, eps: float, decay: float,
) -> None:  # fmt: skip
    tensors = (*weights, *gradients)
    if isinstance(weights[0], FakeTensor) or not all(t.dtype == torch.float32 and t.is_contiguous() for t in tensors):
        return NotImplemented
    corrections = bias_corrections(steps, beta1, beta2)
    step(weights, gradients, firsts, seconds, corrections, lr, 1 - beta1, beta2, 1 - beta2, eps, decay)
    return None


def step(
    weights: Tensors, gradients: Tensors, firsts: Tensors, seconds: Tensors, corrections: Tensor, lr: float | Tensor,
    *numbers: float,
) -> None:  # fmt: skip
    """In place, for tensors of float32, contiguous; `numbers` are 1 - beta1, beta2, 1 - beta2, eps and decay."""
    rate = lr if isinstance(lr, Tensor) else torch.full((), lr, device=corrections.device)
    for place, (w, *others) in enumerate(zip(weights, gradients, firsts, seconds, strict=True)):
        if count := w.numel():
            blocks = (triton.cdiv(count, BLOCK),)
            _step[blocks](w, *others, corrections, rate, place, len(weights), count, *numbers, block=BLOCK)
