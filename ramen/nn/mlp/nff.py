"""nFF, the normalised feed-forward of nGPT: a step on the sphere.

The input is brought to unit length, the branch's output too, and the result moves from one towards the other by a
learned rate alpha per dimension. Rows of the input maps and columns of the output map have unit norm, restored after
every step. With l2(v) = v / |v| and x on the sphere:

    goal = l2(W_o (activation(s_g sqrt(D) W_g x) * s_u W_u x)),  delta = l2(x + |alpha| (goal - x)) - x

Source: Loshchilov et al. 2024, arXiv 2410.01131, https://github.com/NVIDIA/ngpt.
Cost: 6 D F FLOPs a token, F a third smaller than a plain MLP's when parameters are matched.
Differs from the source: the block adds, so the module returns the step (in units of RMS 1, as its input has); attention
and the stream are not on the sphere; the gate's activation is a choice; sqrt(D) is on the gate alone, as in the paper's
text (the repository has it on both, which the norm of the goal takes away again).
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from ramen.nn.mlp.base import FeedForward
from ramen.nn.parameter import constant, parameter
from ramen.ops.checks import check_range


class NFF(FeedForward):
    """down(activation(s_g sqrt(D) gate(x)) * s_u up(x)) on the unit sphere, approached at rate alpha."""

    def __init__(self, dim: int, linear: Callable[..., Any], *, alpha_init: float, **base: Any):
        check_range("(0, 1]", alpha_init=alpha_init)
        super().__init__(dim, lambda maps, width: 3 * dim * width + 2 * width + dim, **base)
        self.up = linear(self.hidden, dim, (dim**-0.5,) * 2)  # gate, up
        self.down = linear(dim, self.hidden, (dim**-0.5,))
        # alpha is stored at the scale of the weights and multiplied back at use: Adam moves it as it moves weights.
        self.stored = dim**-0.5
        self.alpha_init = alpha_init
        self.alpha = parameter((dim,), constant(self.stored), "scalar")
        self.gate_scale = parameter((self.hidden,), constant(1.0), "scalar")
        self.up_scale = parameter((self.hidden,), constant(1.0), "scalar")

    def forward(self, x: Tensor) -> Tensor:  # (B, T, D) -> (B, T, D)
        dim = x.shape[-1]
        start = F.normalize(x.float(), dim=-1)
        gate, up = self.up(start.to(x.dtype)).chunk(2, dim=-1)  # (B, T, F) each
        activate = self.activation.function  # always gated: swiglu is silu, geglu is gelu
        hidden = activate(gate * (self.gate_scale * dim**0.5)) * (up * self.up_scale)
        goal = F.normalize(self.down(hidden.to(x.dtype)).float(), dim=-1)
        alpha = (self.alpha * (self.alpha_init / self.stored)).abs()
        end = F.normalize(start + alpha * (goal - start), dim=-1)
        return ((end - start) * dim**0.5).to(x.dtype)

    def after_step(self) -> None:
        """Restore unit rows of the input maps and unit columns of the output map (vectors of the model width)."""
        self.up.normalise(axis=-1)
        self.down.normalise(axis=-2)
