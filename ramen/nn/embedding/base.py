"""What all embeddings share: the table that turns token ids into vectors."""

from torch import Tensor
from torch.nn import functional as F

from ramen.nn.contracts import Embedding
from ramen.nn.mlp.hidden_width import padded_vocabulary
from ramen.nn.parameter import normal, parameter
from ramen.ops.checks import check_range


class TableEmbedding(Embedding):
    """A table (V padded, D) of normal entries; a subclass says what the head's matrix is."""

    def __init__(self, vocabulary: int, dim: int, *, init_std: float, pad_to_multiple: int):
        super().__init__()
        check_range("(0, inf)", init_std=init_std)  # a zero stream has no gradient
        self.weight = parameter((padded_vocabulary(vocabulary, pad_to_multiple), dim), normal(init_std), "embedding")

    def forward(self, tokens: Tensor) -> Tensor:
        return F.embedding(tokens, self.weight)
