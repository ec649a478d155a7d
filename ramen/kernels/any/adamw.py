"""The part of AdamW that its kernels leave to torch, on any device."""

import torch
from torch import Tensor


def bias_corrections(steps: list[Tensor], beta1: float, beta2: float) -> Tensor:
    """Count a step; 1 - beta1^step and sqrt(1 - beta2^step) for each weight, float32 (2, number of weights)."""
    torch._foreach_add_(steps, 1)
    step = torch.stack(steps).double()  # in float32, 1 - beta would lose its digits
    return torch.stack((1 - beta1**step, (1 - beta2**step).sqrt())).float()
