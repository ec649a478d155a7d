"""Nothing between the layers: each block reads what the one before it wrote.

Source: Vaswani et al. 2017, arXiv 1706.03762.
"""

from torch import Tensor, nn


class Plain(nn.Module):
    """The identity at every place. `kept` is the forward pass's own memory: name -> tensor."""

    def __init__(self, dim: int, layers: int):
        super().__init__()

    def enter(self, embedded: Tensor, tokens: Tensor, opens: Tensor, kept: dict[str, Tensor]) -> Tensor:
        """Embedded tokens (B, T, D) before their first norm; `opens` (B, T) marks the first token of each document."""
        return embedded

    def before(self, layer: int, h: Tensor, start: Tensor, x0: Tensor, kept: dict[str, Tensor]) -> Tensor:
        """The stream as layer `layer` reads it; `start` is the opened stream, x0 (B, T, D) the normalised embedding."""
        return h

    def after(self, layer: int, h: Tensor, kept: dict[str, Tensor]) -> None:
        """What later layers may want of this one's output is put into `kept`."""

    def leave(self, h: Tensor, kept: dict[str, Tensor]) -> Tensor:
        """The stream before it is closed and normalised."""
        return h
