"""A step of AdamW with cautious decay in one pass over memory: in C on a CPU (adamw.c), in Triton on CUDA (adamw_triton.py).

Its plain torch twin, ramen.optimizer.adamw without kernels, takes three times as many: torch's fused kernel cannot mask a decay.
Sources: AdamW, arXiv 1711.05101; cautious decay, arXiv 2510.12402.
Cost: 7 numbers read or written a weight.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from ramen.kernels.cpu.library import kernels, triton_serves

Tensors = list[Tensor]


def fused_adamw(weights: Tensors, gradients: Tensors) -> Callable[..., None] | None:
    """`cautious_adamw` by the kernel that serves tensors like these, of any shapes; None where none does.

    Kernels take float32 alone, contiguous.
    """
    if not weights or not all(t.dtype == torch.float32 and t.is_contiguous() for t in (*weights, *gradients)):
        return None
    if triton_serves(weights[0].device) and not isinstance(weights[0], FakeTensor):
        from ramen.kernels.cuda.adamw import cautious_adamw as on_cuda

        return functools.partial(cautious_adamw, on_cuda)
    library = kernels("adamw", *weights, *gradients)
    return functools.partial(cautious_adamw, functools.partial(_on_cpu, library)) if library else None


def warm(like: Tensor) -> None:
    """Let Triton make its kernel now, not in the first step of a run."""
    if serve := fused_adamw([like], [like]) if like.is_cuda else None:
        weight, step = torch.zeros(16, device=like.device), torch.zeros((), device=like.device)
        moments = torch.zeros_like(weight), torch.zeros_like(weight)
        serve([weight], [weight], *([m] for m in moments), [step], lr=0.0, beta1=0.0, beta2=0.0, eps=1.0, decay=0.0)


def cautious_adamw(
    kernel: Callable[..., None], weights: Tensors, gradients: Tensors, firsts: Tensors, seconds: Tensors, steps: Tensors, *,
    lr: float | Tensor, beta1: float, beta2: float, eps: float, decay: float,
) -> None:  # fmt: skip
    """W <- W - lr decay 1[m W > 0] W - lr m^ / (sqrt(v^) + eps), in place.

    Gradients and both moments are in their weights' shapes, `steps` (0-d, one a weight) count the steps behind; `lr` may be a
    tensor (0-d) on the device. `kernel` is given the bias corrections as a tensor (2, number of weights).
    """
    torch._foreach_add_(steps, 1)
    step = torch.stack(steps).double()  # in float32, 1 - beta would lose its digits
    corrections = torch.stack((1 - beta1**step, (1 - beta2**step).sqrt())).float()
    kernel(weights, gradients, firsts, seconds, corrections, lr, 1 - beta1, beta2, 1 - beta2, eps, decay)


def _on_cpu(
    library: Any, weights: Tensors, gradients: Tensors, firsts: Tensors, seconds: Tensors, corrections: Tensor,
    lr: float | Tensor, new1: float, beta2: float, new2: float, eps: float, decay: float,
) -> None:  # fmt: skip
    sizes, rate = [w.numel() for w in weights], float(lr)
    numbers = (rate, new1, beta2, new2, eps, rate * decay)
    library.cautious_adamw(weights, gradients, firsts, seconds, sizes, len(sizes), corrections, *numbers)
