"""Nothing between the layers: each block reads what the one before it wrote.

Source: Vaswani et al. 2017, arXiv 1706.03762.
"""

from ramen.nn.contracts import Stream


class Plain(Stream):
    """The identity at every place."""
