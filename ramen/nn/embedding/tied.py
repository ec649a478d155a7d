"""Tied embeddings: one table turns tokens into vectors and vectors into logits.

Source: Press and Wolf 2016, arXiv 1608.05859.
"""

from torch import Tensor

from ramen.nn.embedding.base import TableEmbedding


class Tied(TableEmbedding):
    """One table (V padded, D), read at both ends."""

    def head(self) -> Tensor:
        return self.weight
