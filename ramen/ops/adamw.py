"""A step of AdamW with cautious decay: a weight decays only where its sign is the step's.

Sources: AdamW, arXiv 1711.05101; cautious decay, arXiv 2510.12402.
Cost: bound by memory; 7 numbers read or written a weight where a twin does it in one pass, three times as many here.
"""

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from ramen.ops.operation import operation

Tensors = list[Tensor]


@operation
def cautious_adamw(
    weights: Tensors, gradients: Tensors, firsts: Tensors, seconds: Tensors, steps: Tensors, *,
    lr: float | Tensor, beta1: float, beta2: float, eps: float, decay: float,
) -> None:  # fmt: skip
    """W <- W - lr decay 1[m W > 0] W - lr m^ / (sqrt(v^) + eps), in place.

    Gradients and both moments are in their weights' shapes, `steps` (0-d, one a weight) count the steps behind; `lr` may be a
    tensor (0-d) on the device.
    """
    agree = torch._foreach_lerp(firsts, gradients, 1 - beta1)  # the step's first moment, which does not depend on W
    torch._foreach_sign_(agree)  # first, lest the product be too small for a number
    torch._foreach_mul_(agree, weights)
    torch._foreach_sign_(agree)
    torch._foreach_clamp_min_(agree, 0.0)  # 1 where they agree, else 0
    rate = lr * decay
    if isinstance(rate, Tensor):
        torch._foreach_mul_(agree, rate)
        rate = 1.0
    torch._foreach_addcmul_(weights, agree, weights, value=-rate)
    adamw(
        weights, gradients, firsts, seconds, [], steps, fused=True, amsgrad=False, maximize=False, beta1=beta1, beta2=beta2, lr=lr,
        eps=eps, weight_decay=0.0,
    )  # fmt: skip


def warm(like: Tensor) -> None:
    """Step a few zeros on a GPU, so that no kernel is compiled in the first step of a run."""
    if like.is_cuda:
        weight, step = torch.zeros(16, device=like.device), torch.zeros((), device=like.device)
        first, second = torch.zeros_like(weight), torch.zeros_like(weight)
        cautious_adamw([weight], [weight], [first], [second], [step], lr=0.0, beta1=0.0, beta2=0.0, eps=1.0, decay=1.0)
