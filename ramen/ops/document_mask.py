"""Who attends to whom: causal, same document, within the window. The whole condition, token-exact, in one place.

allow(q, k) = k <= q and document(q) == document(k) and q - k < window
"""

from typing import Any

import torch
from torch import Tensor

BLOCK = 128  # tokens of a side of a block, FlexAttention's own


class DocumentMask:
    """The allowed pairs of a batch of packed documents, made once a window and shared by every layer.

    `documents` (B, T) numbers the document of each token, non-decreasing along a row. Who knows their number in all rows, `count`,
    spares `boundaries` asking the device.
    """

    def __init__(self, documents: Tensor, count: int | None = None):
        self.documents, self.count = documents, count
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
            self._paired = DocumentMask(self.documents.repeat_interleave(2, dim=1), self.count)
        return self._paired

    @property
    def boundaries(self) -> Tensor:
        """Where documents begin in the rows laid end to end, and the number of tokens: int32 (documents + 1,)."""
        if self._boundaries is None:
            first = self.first.flatten()
            begins = (first.nonzero() if self.count is None else first.nonzero_static(size=self.count)).squeeze(1)
            self._boundaries = torch.cat((begins, begins.new_full((1,), self.documents.numel()))).int()
        return self._boundaries

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
        key = (window, dtype)
        if key not in self._additive:
            allowed = self.dense(window)
            self._additive[key] = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(
                ~allowed, -torch.inf
            )
        return self._additive[key]

    def blocks(self, window: int | None) -> Any:
        """FlexAttention's block mask: the whole condition as its function, and which blocks of 128 x 128 have any pair, or all.

        What a query sees is a range that never moves back, so blocks follow from the first and last queries': nothing is T x T.
        """
        if window not in self._blocks:
            from torch.nn.attention.flex_attention import BlockMask

            lowest = self.lowest(window)
            # A view of itself, which torch 2.11's compiler keeps in memory: without, it fails in evaluation on CUDA.
            lowest = lowest.as_strided(lowest.shape, lowest.stride())

            def allow(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
                return (k <= q) & (k >= lowest[b, q])

            time = lowest.shape[1]
            block = torch.arange(-(-time // BLOCK), device=lowest.device)
            first, last = block * BLOCK, block * BLOCK + BLOCK - 1  # tokens of blocks of queries, or of keys
            seen = (block <= block[:, None]) & (last >= lowest[:, first, None])  # (B, T / 128, T / 128)
            whole = (last < first[:, None]) & (first >= lowest[:, last.clamp_max(time - 1), None])
            whole &= (last < time)[:, None]  # a query beyond the row sees nothing
            some = seen & ~whole
            self._blocks[window] = BlockMask(
                (time, time),
                *_ordered(some),
                *_ordered(whole),
                *_ordered(some.mT),
                *_ordered(whole.mT),
                BLOCK_SIZE=(BLOCK, BLOCK),
                mask_mod=allow,
            )
        return self._blocks[window]


def _ordered(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """How many blocks (B, n, n) each row has, int32 (B, 1, n), and which, those first, int32 (B, 1, n, n)."""
    marked = blocks.int().contiguous()
    number, which = marked.sum(-1, dtype=torch.int32), marked.argsort(dim=-1, descending=True, stable=True).int()
    # FlexAttention's kernel finds a row of the batch by the stride of the heads' axis, which torch 2.11's compiler, when it makes
    # the tensor itself, takes for free, as the axis is one long: in evaluation all rows but the first then had a wrong mask.
    batch, n = number.shape
    return number.as_strided((batch, 1, n), (n, n, 1)), which.as_strided((batch, 1, n, n), (n * n, n * n, n, 1))
