"""Steps whose loss or gradient is not finite: the run stops, or the step is skipped and counted.

Cost: `stop` keeps the first bad step on the device (three scalar kernels a step) and is read when a record or a checkpoint is due.
`skip` must know before the optimizers step, so it reads one number from the device each step: on CUDA the host then
waits for the backward pass, which costs what it would have queued ahead. On a CPU both are free.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

Policy = Literal["stop", "skip"]


class NonFiniteGuard:
    """Judges each step by its loss and gradient norm, both scalars on the device."""

    def __init__(self, policy: Policy, device: torch.device):
        self.policy = policy
        self.first_bad = torch.full((), math.inf, device=device)

    def should_step(self, step: int, loss: Tensor, norm: Tensor) -> bool:
        """True if the optimizers may use this step's gradients; `stop` says so without looking, and remembers the step."""
        if self.policy == "skip":
            return math.isfinite((loss + norm).item())
        bad_step = torch.where(torch.isfinite(loss + norm), math.inf, float(step))
        self.first_bad = torch.minimum(self.first_bad, bad_step)
        return True

    def problem(self) -> str | None:
        """A message that names the first step whose loss or gradient was not finite; reads the device."""
        first = self.first_bad.item()
        return None if math.isinf(first) else f"loss or gradient norm was not finite at step {first:.0f}"


def broken_weights(model: nn.Module) -> str | None:
    """A message that names parameters that are not finite; one read from the device for all of them."""
    names, values = zip(*model.named_parameters(), strict=True)
    finite = torch.stack([value.detach().isfinite().all() for value in values]).tolist()
    bad = [name for name, is_finite in zip(names, finite, strict=True) if not is_finite]
    more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
    return f"weights are not finite: {', '.join(bad[:3])}{more}" if bad else None
