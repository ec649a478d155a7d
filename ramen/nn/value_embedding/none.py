"""No value embeddings: a value is a map of the stream, as in Vaswani et al. 2017, arXiv 1706.03762."""

from ramen.nn.contracts import ValueEmbedding


class NoValueEmbedding(ValueEmbedding):
    """Adds nothing in any layer."""
