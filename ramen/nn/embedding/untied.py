"""Untied embeddings: a table for the input and another matrix for the output head.

The head starts at (nearly) zero, so the first prediction is uniform.
"""

from typing import Any

from torch import Tensor

from ramen.nn.embedding.base import TableEmbedding
from ramen.nn.parameter import normal, parameter
from ramen.ops.checks import check_range


class Untied(TableEmbedding):
    """Two tables (V padded, D)."""

    def __init__(self, vocabulary: int, dim: int, *, head_init_std: float, **base: Any):
        super().__init__(vocabulary, dim, **base)
        check_range("[0, inf)", head_init_std=head_init_std)
        self.head_weight = parameter(tuple(self.weight.shape), normal(head_init_std), "head")

    def head(self) -> Tensor:
        return self.head_weight
