"""Tied embeddings that part during training: one table at first, from `split_at` of the run on one for each use.

At the split the head becomes a copy of the table, and the optimizer's state is copied with it: the loss, the next step's momenta
and the learning rate stay as they were, nothing moves. From then on the two get gradients of their own.
Source: modded-nanogpt (records 53 and 61, split at 2/3 of the run).
Differs from the source: the head's parameters are there from the start (without a gradient until the split), so that routing, the
checkpoint and the memory estimate know them.
"""

from typing import Any

import torch
from torch import Tensor

from ramen.nn.embedding.base import TableEmbedding
from ramen.nn.parameter import normal, parameter


class Split(TableEmbedding):
    """Two tables (V padded, D) of which the first serves both uses until the split."""

    saved_is_split: Tensor

    def __init__(self, vocabulary: int, dim: int, *, init_std: float, split_at: float, **base: Any):
        super().__init__(vocabulary, dim, init_std=init_std, **base)
        if not 0 < split_at < 1:
            raise ValueError(f"split_at must be in (0, 1), got {split_at}; embedding=untied is split from the start")
        self.split_at = split_at
        self.head_weight = parameter(tuple(self.weight.shape), normal(init_std), "head")
        self.register_buffer("saved_is_split", torch.zeros((), dtype=torch.bool, device="cpu"))
        self.register_load_state_dict_post_hook(Split._loaded)

    def head(self) -> Tensor:
        return self.head_weight if self.is_split else self.weight

    @torch.no_grad()
    def split(self) -> tuple[Tensor, Tensor]:
        self.head_weight.copy_(self.weight)
        self.saved_is_split.fill_(True)
        self.is_split = True
        return self.weight, self.head_weight

    def _loaded(self, keys: Any) -> None:
        self.is_split = bool(self.saved_is_split)
