"""Activations by name, element by element, and the gated pairs (GLU).

Sources: ReLU^2 (So et al. 2021, arXiv 2109.08668), GELU (1606.08415), SiLU / Swish (1710.05941), GLU variants
(2002.05202), BSiLU and NeLU with their surrogate gradient (SUGAR, 2505.22074).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ramen.ops.operation import operation

BSILU_SHIFT = 1.67
NELU_HEIGHT = 0.05

Activation = Literal[
    "relu", "gelu", "silu", "swish", "linear", "identity", "relu_squared", "gelu_squared", "silu_squared", "swish_squared",
    "bsilu", "nelu", "relu_nelu", "geglu", "swiglu",
]  # fmt: skip


@operation
def relu_squared(x: Tensor) -> Tensor:
    return F.relu(x).square()


@operation
def relu_squared_mlp(x: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """The plain MLP in one, x (..., D) -> (..., D) by up (F, D) and down (D, F): 2 F numbers a token for the backward pass."""
    return F.linear(relu_squared(F.linear(x, up)), down)


def gelu_squared(x: Tensor) -> Tensor:
    return F.gelu(x).square()


def silu_squared(x: Tensor) -> Tensor:
    return F.silu(x).square()


def identity(x: Tensor) -> Tensor:
    return x


def bsilu(x: Tensor) -> Tensor:
    """(x + a) sigmoid(x) - a / 2, zero at zero."""
    return (x + BSILU_SHIFT) * torch.sigmoid(x) - BSILU_SHIFT / 2


def nelu(x: Tensor) -> Tensor:
    """-a / (1 + x^2): even, always negative."""
    return -NELU_HEIGHT / (1 + x.square())


def relu_nelu(x: Tensor) -> Tensor:
    """ReLU's values with the gradient of NeLU where x <= 0, so that no unit is dead."""
    surrogate = nelu(x)
    return torch.where(x > 0, x, surrogate - surrogate.detach())


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "swish": F.silu,
    "linear": identity,
    "identity": identity,
    "relu_squared": relu_squared,
    "gelu_squared": gelu_squared,
    "silu_squared": silu_squared,
    "swish_squared": silu_squared,
    "bsilu": bsilu,
    "nelu": nelu,
    "relu_nelu": relu_nelu,
}
"""Of one input. Three pairs are two names of one function: silu/swish, linear/identity, silu_squared/swish_squared."""

GATES: dict[str, Callable[[Tensor], Tensor]] = {"geglu": F.gelu, "swiglu": F.silu}
"""GLU variants: activation(gate) * up, with two input maps."""


@dataclass(frozen=True)
class Nonlinearity:
    """The function between two maps: (..., maps x F) -> (..., F)."""

    function: Callable[[Tensor], Tensor]
    maps: int  # input maps it takes: 1, or 2 (gate and up, side by side)

    def __call__(self, hidden: Tensor) -> Tensor:
        if self.maps == 1:
            return self.function(hidden)
        gate, up = hidden.chunk(2, dim=-1)  # (..., F) each
        return self.function(gate) * up


def nonlinearity(name: str) -> Nonlinearity:
    """The activation of that name, gated or not. ValueError for another name."""
    if name in GATES:
        return Nonlinearity(GATES[name], 2)
    if name not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join([*ACTIVATIONS, *GATES])}, got {name!r}")
    return Nonlinearity(ACTIVATIONS[name], 1)
