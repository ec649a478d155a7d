"""Logit softcapping: logits pass through a bounded, monotone curve before the softmax.

Two forms of `limit * curve((z + shift) / scale)`: `tanh` (Gemma 2, arXiv 2408.00118: limit 30, shift 0, scale 30) and `sigmoid`
(modded-nanogpt: limit 23, shift 5, scale 7.5, an off-centre 15 tanh(z / 15)).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from typing_extensions import TypedDict


class SoftcapForm(TypedDict, closed=True):
    """A softcap as a config holds it."""

    form: Literal["sigmoid", "tanh"]
    limit: float
    shift: float
    scale: float


@dataclass(frozen=True)
class Softcap:
    """A curve with values in (0, limit) for `sigmoid` and (-limit, limit) for `tanh`."""

    form: Literal["sigmoid", "tanh"]
    limit: float
    shift: float
    scale: float

    def __post_init__(self) -> None:
        if self.limit <= 0 or self.scale <= 0:
            raise ValueError(f"softcap limit and scale must be > 0, got {self.limit} and {self.scale}")

    def __call__(self, logits: Tensor) -> Tensor:
        """Capped logits, same shape."""
        curve = torch.sigmoid if self.form == "sigmoid" else torch.tanh
        return self.limit * curve((logits + self.shift) * (1 / self.scale))
