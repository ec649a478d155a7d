"""Tied embeddings: one table turns tokens into vectors and vectors into logits.

Source: Press and Wolf 2016, arXiv 1608.05859.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from ramen.ops.parameter import normal, parameter
from ramen.ops.ranges import above
from ramen.ops.width import padded_vocabulary


class Tied(nn.Module):
    """A table (V padded, D) of normal entries."""

    def __init__(self, vocabulary: int, dim: int, *, init_std: float, pad_to_multiple: int):
        super().__init__()
        above(0, init_std=init_std)  # a zero stream has no gradient
        self.weight = parameter((padded_vocabulary(vocabulary, pad_to_multiple), dim), normal(init_std), "embedding")

    def forward(self, tokens: Tensor) -> Tensor:  # (B, T) -> (B, T, D)
        return F.embedding(tokens, self.weight)

    def head(self) -> Tensor:
        """The output matrix (V padded, D)."""
        return self.weight
