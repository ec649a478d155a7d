"""The loss of a batch with its gradients, and of the validation rows, some rows at a time; a loss that is not finite.

The losses of micro-batches are summed and divided by the counted targets of the whole batch, so the result does not depend on
how it is cut.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ramen.data.batches import IGNORED, Batch

Policy = Literal["stop", "skip"]


class GradientAccumulator:
    """Adds the gradients of a batch's mean loss to those of the parameters."""

    graphs: Callable[..., Tensor] | None = None  # does what `run` does, as CUDA graphs (ramen.kernels.cuda.graphs)

    def __init__(self, loss: Callable[..., Tensor], micro_rows: int, precision: torch.dtype, device: torch.device):
        self.loss, self.micro_rows, self.precision, self.device = loss, micro_rows, precision, device

    def __call__(self, batch: Batch) -> Tensor:
        """The summed loss (float32 scalar on the device). Nothing is read back."""
        total = torch.zeros((), device=self.device)
        for start in range(0, len(batch.tokens), self.micro_rows):
            rows = slice(start, start + self.micro_rows)
            documents = sum(batch.documents[rows]) if batch.documents else None
            total += self.micro_batch(batch.tokens[rows], batch.targets[rows], batch.counted, documents)
        return total

    def micro_batch(self, tokens: Tensor, targets: Tensor, counted: int, documents: int | None = None) -> Tensor:
        """The summed loss of some rows of so many documents, with the gradients of its share of the mean over `counted` targets."""
        share = torch.full((), 1 / counted, device=self.device)
        return (self.graphs or self.run)(tokens, targets, share, documents)

    def run(self, tokens: Tensor, targets: Tensor, share: Tensor, documents: int | None = None) -> Tensor:
        """The summed loss of some rows, with its gradients times `share`."""
        with torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32):
            loss = self.loss(tokens, targets, documents)
        loss.backward(gradient=share)
        return loss.detach()

    def sizes(self, rows: int) -> list[int]:
        """The different numbers of rows that micro-batches of a batch of `rows` have."""
        return sorted({min(rows, self.micro_rows), rows % self.micro_rows or min(rows, self.micro_rows)})


@torch.no_grad()
def evaluate(
    loss: Callable[[Tensor, Tensor], Tensor], tokens: Tensor, targets: Tensor, rows: int, precision: torch.dtype,
    device: torch.device,
) -> float:  # fmt: skip
    """Mean loss in nats a counted token of (R, T) rows, `rows` of them at a time; `loss` returns a sum."""
    total = torch.zeros((), dtype=torch.float64, device=device)
    with torch.autocast(device.type, precision, enabled=precision != torch.float32):
        for start in range(0, len(tokens), rows):
            part = slice(start, start + rows)
            short = max(0, start + rows - len(tokens))  # the last part is filled up: one shape, one compiled graph
            filled_tokens = torch.cat((tokens[part], tokens[-1:].expand(short, -1)))
            filled_targets = F.pad(targets[part], (0, 0, 0, short), value=IGNORED)
            total += loss(filled_tokens.to(device), filled_targets.to(device))
    return total.item() / int((targets != IGNORED).sum())


def bits_per_byte(loss: float, bytes_per_token: float) -> float:
    """Nats a token -> bits a byte of text: what models with different tokenizers can be compared by."""
    return loss / math.log(2) / bytes_per_token


class NonFiniteGuard:
    """Judges each step by its loss and gradient norm, scalars on the device: the run stops, or the step is skipped and counted.

    Cost: `stop` keeps the first bad step on the device (three scalar kernels a step) and is read when a record or a checkpoint is
    due. `skip` must know before the optimizers step, so it reads one number from the device each step: on CUDA the host then
    waits for the backward pass, which costs what it would have queued ahead. On a CPU both are free.
    """

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
