"""No value embeddings: a value is a map of the stream, as in Vaswani et al. 2017, arXiv 1706.03762."""

from torch import Tensor, nn


class NoValueEmbedding(nn.Module):
    """Adds nothing in any layer."""

    def __init__(self, vocabulary: int, dim: int, heads: int, layers: tuple[int, ...]):
        super().__init__()

    def forward(self, layer: int, tokens: Tensor, x: Tensor) -> Tensor | None:
        """What is added to the values (B, T, D) of `layer`, or None; tokens (B, T), x (B, T, D) its normalised input."""
        return None
