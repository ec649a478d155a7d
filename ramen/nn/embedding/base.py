"""The table that all embeddings share, which turns token ids into vectors."""

from torch import Tensor
from torch.nn import functional as F

from ramen.nn.contracts import Embedding
from ramen.nn.parameter import normal, parameter
from ramen.ops.checks import check_range


class TableEmbedding(Embedding):
    """A table (V padded, D) of normal entries; a subclass says which matrix is the head's."""

    def __init__(self, vocabulary: int, dim: int, *, init_std: float, pad_to_multiple: int):
        super().__init__()
        check_range("(0, inf)", init_std=init_std)  # a zero stream has no gradient
        check_range("[1, inf)", pad_to_multiple=pad_to_multiple)
        # Rows beyond the vocabulary make aligned matrices and never enter the softmax.
        rows = -(-vocabulary // pad_to_multiple) * pad_to_multiple
        self.weight = parameter((rows, dim), normal(init_std), "embedding")

    def forward(self, tokens: Tensor) -> Tensor:
        return F.embedding(tokens, self.weight)
