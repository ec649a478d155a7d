"""Output head and loss: cross-entropy of softcapped logits, of the next token and, if asked for, of those after it.

    loss of a row = CE(z, t_1) + sum_k w_k CE(z, t_k),  k = 2 .. n,  z = softcap(W x)

A softcap sends logits through a bounded, monotone curve before the softmax, limit * curve((z + shift) / scale): `tanh` (Gemma 2,
arXiv 2408.00118: limit 30, shift 0, scale 30), `sigmoid` (modded-nanogpt: limit 23, shift 5, scale 7.5, an off-centre
15 tanh(z / 15)) or `rsqrt`, u / sqrt(1 + u^2) (modded-nanogpt's track 3: limit 15, shift 0, scale 15).
Losses on further tokens without parameters of their own: all share one softmax.
Source: modded-nanogpt (record 53); Gloeckle et al. 2024, arXiv 2404.19737, have a head for each token.
Memory: here all logits, N V numbers; a chunk of them in the twins (ramen/kernels/any/cross_entropy.py).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import TypedDict

from ramen.device import compute_dtype
from ramen.ops.operation import operation

IGNORED = -100


Form = Literal["sigmoid", "tanh", "rsqrt"]


class SoftcapForm(TypedDict, closed=True):
    """A softcap as a config holds it."""

    form: Form
    limit: float
    shift: float
    scale: float


@dataclass(frozen=True)
class Softcap:
    """A curve with values in (0, limit) for `sigmoid` and (-limit, limit) for `tanh` and `rsqrt`."""

    form: Form
    limit: float
    shift: float
    scale: float

    def __post_init__(self) -> None:
        if self.limit <= 0 or self.scale <= 0:
            raise ValueError(f"softcap limit and scale must be > 0, got {self.limit} and {self.scale}")

    def __call__(self, logits: Tensor) -> Tensor:
        """Capped logits, same shape."""
        inner = (logits + self.shift) * (1 / self.scale)
        if self.form == "rsqrt":
            return self.limit * inner * torch.rsqrt(1 + inner.square())
        return self.limit * (torch.sigmoid(inner) if self.form == "sigmoid" else torch.tanh(inner))


@operation
def linear_cross_entropy(
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    vocabulary: int,
    softcap: Softcap | None,
    mtp: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Summed cross-entropy (float32 scalar, nats) of x (N, D) against targets (N,) under logits x weight^T (weight (V padded, D)).

    Targets of -100 count nothing; rows of the weight from `vocabulary` on never enter the softmax. Matrix products are of
    numbers of autocast's type where that is on, all else is float32. `mtp`: further targets (N, m) and the weights (m,) of their
    losses.
    """
    dtype = compute_dtype(x)
    logits = (x.to(dtype) @ weight.to(dtype).T)[:, :vocabulary].float()  # (N, V)
    if softcap:
        logits = softcap(logits)
    loss = _summed(logits, targets)
    if mtp is not None:
        further, weights = mtp
        for k in range(further.shape[1]):
            loss = loss + weights[k] * _summed(logits, further[:, k])
    return loss


def _summed(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits, targets.long(), ignore_index=IGNORED, reduction="sum")


def mtp_targets(targets: Tensor, documents: Tensor, count: int) -> Tensor:
    """(B, T, count): the second, third ... token after each, as `targets` (B, T) hold the next one; -100 where there is none.

    None are those of another of the `documents` (B, T), and all of a token whose next one does not count.
    """
    further = []
    for step in range(1, count + 1):
        later = F.pad(targets[:, step:], (0, step), value=IGNORED)
        same = F.pad(documents[:, step:] == documents[:, :-step], (0, step))
        further.append(torch.where(same & (targets != IGNORED), later, IGNORED))
    return torch.stack(further, dim=-1)
