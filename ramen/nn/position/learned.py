"""Learned absolute positions: row t of a table is added to the embedding of the token at place t of its document.

Queries and keys are not turned. A document that began in an earlier row is counted from the start of this one.
Sources: Vaswani et al. 2017, arXiv 1706.03762; Radford et al. 2019 (GPT-2).
Cost: one pass over (B, T, D). Parameters: sequence_length x D, of role `embedding`.
Differs from the sources: where rows hold several documents, each one is counted from its own start.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ramen.nn.parameter import normal, parameter
from ramen.nn.position.none import NoPE
from ramen.ops.checks import check_range
from ramen.ops.rotary import positions


class Learned(NoPE):
    """A table (T, D) of normal entries, read at the entrance of the stream."""

    def __init__(self, head_width: int, sequence_length: int, dim: int, *, init_std: float):
        super().__init__(head_width, sequence_length, dim)
        check_range("[0, inf)", init_std=init_std)
        self.weight = parameter((sequence_length, dim), normal(init_std), "embedding")

    def embed(self, x: Tensor, starts: Tensor) -> Tensor:
        table = positions(self.weight, x.shape[1])
        places = torch.arange(len(table), device=x.device) - starts  # (B, T)
        return x + F.embedding(places, table)
