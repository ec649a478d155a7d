"""Untied embeddings: a table for the input and another matrix for the output head.

The head starts at (nearly) zero, so the first prediction is uniform.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from ramen.ops.parameter import normal, parameter
from ramen.ops.ranges import above, at_least
from ramen.ops.width import padded_vocabulary


class Untied(nn.Module):
    """Two tables (V padded, D)."""

    def __init__(self, vocabulary: int, dim: int, *, init_std: float, head_init_std: float, pad_to_multiple: int):
        super().__init__()
        above(0, init_std=init_std)  # a zero stream has no gradient
        at_least(0, head_init_std=head_init_std)
        rows = padded_vocabulary(vocabulary, pad_to_multiple)
        self.weight = parameter((rows, dim), normal(init_std), "embedding")
        self.head_weight = parameter((rows, dim), normal(head_init_std), "head")

    def forward(self, tokens: Tensor) -> Tensor:  # (B, T) -> (B, T, D)
        return F.embedding(tokens, self.weight)

    def head(self) -> Tensor:
        """The output matrix (V padded, D)."""
        return self.head_weight
