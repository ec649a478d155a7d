"""The transformer's MLP: down(activation(up(x))), or with a GLU, down(activation(gate(x)) * up(x)).

Sources: Vaswani et al. 2017, arXiv 1706.03762; GLU: Shazeer 2020, arXiv 2002.05202; activations: ramen/ops.
Cost: 4 D F FLOPs a token (GLU: 6 D F, with F a third smaller when parameters are matched).
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ramen.nn.mlp.base import input_maps, output_map
from ramen.nn.mlp.hidden_width import hidden_width
from ramen.nn.parameter import Component
from ramen.ops.activation import Activation, nonlinearity, relu_squared, relu_squared_mlp


class MLP(Component):
    """Two maps and an activation between them; three maps when the activation is a GLU."""

    def __init__(
        self,
        dim: int,
        linear: Callable[..., Any],
        *,
        activation: Activation,
        expansion: float,
        match_parameters: bool,
        init_scale: float,
        output_init_scale: float,
        output_lr_scale: float,
    ):
        super().__init__()
        self.activation = nonlinearity(activation)
        maps = self.activation.maps
        matched = match_parameters and maps > 1  # without a gate this is the MLP that others are matched with
        hidden = hidden_width(dim, expansion, (lambda width: (maps + 1) * dim * width) if matched else None)
        self.up = input_maps(linear, hidden, dim, init_scale, maps)  # a GLU's gate is the first of two
        self.down = output_map(linear, dim, hidden, output_init_scale, output_lr_scale)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, D) -> (B, T, D)
        up, down = self.up.matrices(), self.down.matrices()
        if self.activation.function is relu_squared and up is not None and down is not None:
            return relu_squared_mlp(x, up.flatten(0, 1), down.flatten(0, 1))
        return self.down(self.activation(self.up(x)))
