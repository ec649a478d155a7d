"""Who attends to whom: causal, same document, within the window. The whole condition, token-exact, in one place.

allow(q, k) = k <= q and document(q) == document(k) and q - k < window
"""

from typing import Any

import torch
from torch import Tensor


class DocumentMask:
    """The allowed pairs of a batch of packed documents, made once a window and shared by every layer.

    `documents` (B, T) numbers the document of each token, non-decreasing along a row.
    """

    def __init__(self, documents: Tensor):
        self.documents = documents
        self.first = torch.ones_like(documents, dtype=torch.bool)
        """Which tokens are the first of their document in their row: bool (B, T)."""
        self.first[:, 1:] = documents[:, 1:] != documents[:, :-1]
        position = torch.arange(documents.shape[1], device=documents.device)
        self.starts = torch.where(self.first, position, 0).cummax(dim=1).values.int()
        """Where the document of each token starts in its row: int32 (B, T), contiguous."""
        self._boundaries: Tensor | None = None
        self._additive: dict[tuple[int | None, torch.dtype], Tensor] = {}
        self._blocks: dict[int | None, Any] = {}
        self._paired: DocumentMask | None = None

    def paired(self) -> "DocumentMask":
        """The same documents with every token twice in a row: (B, 2 T)."""
        if self._paired is None:
            self._paired = DocumentMask(self.documents.repeat_interleave(2, dim=1))
        return self._paired

    @property
    def boundaries(self) -> Tensor:
        """Where documents begin in the rows laid end to end, and the number of tokens: int32 (documents + 1,)."""
        if self._boundaries is None:
            begins = self.first.flatten().nonzero().squeeze(1)
            self._boundaries = torch.cat((begins, begins.new_full((1,), self.documents.numel()))).int()
        return self._boundaries

    def dense(self, window: int | None) -> Tensor:
        """Boolean (B, 1, T, T), True where query (axis -2) may see key (axis -1); every token sees itself."""
        position = torch.arange(self.documents.shape[1], device=self.documents.device)
        distance = position[:, None] - position[None, :]  # (T, T)
        near = distance >= 0 if window is None else (distance >= 0) & (distance < window)
        same = self.documents[:, :, None] == self.documents[:, None, :]  # (B, T, T)
        return (same & near).unsqueeze(1)

    def additive(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """(B, 1, T, T): 0 where `dense` is True and -inf elsewhere, to be added to logits."""
        key = (window, dtype)
        if key not in self._additive:
            allowed = self.dense(window)
            self._additive[key] = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(
                ~allowed, -torch.inf
            )
        return self._additive[key]

    def blocks(self, window: int | None) -> Any:
        """FlexAttention's block mask: the whole condition as its function, and which blocks of 128 x 128 have any pair at all."""
        if window not in self._blocks:
            from torch.nn.attention.flex_attention import create_block_mask

            documents, starts = self.documents, self.starts

            def allow(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
                seen = (k <= q) & (k >= starts[b, q])
                return seen if window is None else seen & (q - k < window)

            batch, time = documents.shape
            self._blocks[window] = create_block_mask(allow, batch, None, time, time, device=documents.device)
        return self._blocks[window]
