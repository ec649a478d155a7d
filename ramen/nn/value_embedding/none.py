"""No value embeddings: a value is a map of the stream, as in Vaswani et al. 2017, arXiv 1706.03762."""

from torch import Tensor, nn


class NoValueEmbedding(nn.Module):
    """Adds nothing in any layer."""

    def __init__(self, vocabulary: int, dim: int, heads: int, layers: tuple[int, ...]):
        super().__init__()

    def read(self, tokens: Tensor) -> tuple[Tensor, ...]:
        """What the layers will need to know of tokens (B, T): nothing."""
        return ()

    def forward(self, layer: int, rows: tuple[Tensor, ...], x: Tensor) -> Tensor | None:
        """What is added to the values (B, T, D) of `layer`, or None; `rows` have been read, x (B, T, D) is its normalised input."""
        return None
