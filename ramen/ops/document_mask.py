"""The pairs of tokens that attention allows: causal, same document, within the window. The whole condition, in one place.

allow(q, k) = k <= q and document(q) == document(k) and q - k < window
"""

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor


class DocumentMask:
    """The allowed pairs of a batch of packed documents, computed once a window and shared by every layer.

    `documents` (B, T) numbers the document of each token, non-decreasing along a row. `count` is their number in all rows, if
    known: a backend that needs it then does not have to ask the device.
    """

    def __init__(self, documents: Tensor, count: int | None = None):
        self.documents, self.count = documents, count
        self.first = torch.ones_like(documents, dtype=torch.bool)
        """True for the first token of each document in its row: bool (B, T)."""
        self.first[:, 1:] = documents[:, 1:] != documents[:, :-1]
        position = torch.arange(documents.shape[1], device=documents.device)
        self.starts = torch.where(self.first, position, 0).cummax(dim=1).values.int()
        """The place in the row where the document of each token starts: int32 (B, T), contiguous."""
        self._computed: dict[Hashable, Any] = {}

    def once(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        """The result of `compute`, computed for the first caller with this key."""
        if key not in self._computed:
            self._computed[key] = compute()
        return self._computed[key]

    def paired(self) -> "DocumentMask":
        """The same documents with every token twice in a row: (B, 2 T)."""
        return self.once("paired", lambda: DocumentMask(self.documents.repeat_interleave(2, dim=1), self.count))

    def lowest(self, window: int | None) -> Tensor:
        """The first key that each query sees, of all up to itself: int32 (B, T), not decreasing along a row."""
        if window is None:
            return self.starts
        position = torch.arange(self.starts.shape[1], device=self.starts.device, dtype=torch.int32)
        return torch.maximum(self.starts, position - (window - 1))

    def dense(self, window: int | None) -> Tensor:
        """Boolean (B, 1, T, T), True where query (axis -2) may see key (axis -1); every token sees itself."""
        position = torch.arange(self.documents.shape[1], device=self.documents.device)
        causal = position[None, :] <= position[:, None]  # (T, T)
        return (causal & (position >= self.lowest(window).unsqueeze(-1))).unsqueeze(1)

    def additive(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """(B, 1, T, T): 0 where `dense` is True and -inf elsewhere, to be added to logits."""

        def compute() -> Tensor:
            allowed = self.dense(window)
            zeros = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
            return zeros.masked_fill_(~allowed, -torch.inf)

        return self.once((window, dtype), compute)
