"""The transformer's MLP: down(activation(up(x))), or with a GLU, down(activation(gate(x)) * up(x)).

Sources: Vaswani et al. 2017, arXiv 1706.03762; GLU: Shazeer 2020, arXiv 2002.05202; activations: ramen/ops.
Cost: 4 D F FLOPs a token (GLU: 6 D F, with F a third smaller when parameters are matched).
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ramen.ops.activation import Activation, nonlinearity, relu_squared
from ramen.ops.relu_squared_mlp import library, relu_squared_mlp
from ramen.ops.width import hidden_width


class MLP(nn.Module):
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
    ):
        super().__init__()
        for name, value in (("expansion", expansion), ("init_scale", init_scale)):
            if value <= 0:
                raise ValueError(f"{name} must be > 0, got {value}")
        if output_init_scale < 0:
            raise ValueError(f"output_init_scale must be >= 0, got {output_init_scale}")
        self.activation = nonlinearity(activation)
        maps = self.activation.maps
        hidden = hidden_width(dim, expansion, (lambda width: (maps + 1) * dim * width) if match_parameters else None)
        self.up = linear(hidden, dim, (init_scale * dim**-0.5,) * maps)  # a GLU's gate is the first of two
        self.down = linear(dim, hidden, (output_init_scale * hidden**-0.5,))

    def forward(self, x: Tensor) -> Tensor:  # (B, T, D) -> (B, T, D)
        if self.activation.function is relu_squared and hasattr(self.up, "weight"):  # low-rank maps have factors
            up, down = (bank.weight.flatten(0, 1) for bank in (self.up, self.down))
            if compiled := library(x, up, down):
                return relu_squared_mlp(x, up, down, compiled)
        return self.down(self.activation(self.up(x)))
