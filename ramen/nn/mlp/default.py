"""The transformer's MLP: down(activation(up(x))), or with a GLU, down(activation(gate(x)) * up(x)).

Sources: Vaswani et al. 2017, arXiv 1706.03762; GLU: Shazeer 2020, arXiv 2002.05202; activations: ramen/ops.
Cost: 4 D F FLOPs a token (GLU: 6 D F, with F a third smaller when parameters are matched).
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ramen.nn.mlp.base import ScaledFeedForward
from ramen.ops.activation import Activation, nonlinearity, relu_squared, relu_squared_mlp


class MLP(ScaledFeedForward):
    """Two maps and an activation between them; three maps when the activation is a GLU."""

    def __init__(
        self, dim: int, linear: Callable[..., Any], *, activation: Activation, match_parameters: bool, **base: Any
    ):
        matched = match_parameters and nonlinearity(activation).maps > 1  # else this is what others are matched with
        base |= {"activation": activation, "match_parameters": matched}
        super().__init__(dim, lambda maps, width: (maps + 1) * dim * width, **base)
        self.up = self.input_maps(linear, dim)  # a GLU's gate is the first of two
        self.down = self.output_map(linear, dim)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, D) -> (B, T, D)
        up, down = self.up.matrices(), self.down.matrices()
        if self.activation.function is relu_squared and up is not None and down is not None:
            return relu_squared_mlp(x, up.flatten(0, 1), down.flatten(0, 1))
        return self.down(self.activation(self.up(x)))
