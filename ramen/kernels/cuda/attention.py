"""Attention's backends on CUDA, both torch's own.

varlen  variable-length flash attention, in half precision; if not told how many documents a batch has, it waits for the device
flex    FlexAttention, compiled: its block mask only leaves blocks out, the whole condition is in its mask function
Sources: Dao et al. 2022, arXiv 2205.14135; Dong et al. 2024, arXiv 2412.05496.
"""

import functools
from typing import Any

import torch
from torch import Tensor

from ramen.kernels.attention import DenseAttention
from ramen.ops.attention import attend
from ramen.ops.document_mask import DocumentMask
from ramen.ops.operation import twin

BLOCK = 128  # tokens of a side of a block, FlexAttention's own
HALF = (torch.bfloat16, torch.float16)


@twin(attend, "varlen")
class VarlenAttention(DenseAttention):
    """torch.nn.attention.varlen."""

    @staticmethod
    def serves(device: torch.device, dtype: torch.dtype, width: int, compiling: bool) -> bool:
        return device.type == "cuda" and dtype in HALF and not compiling and width % 8 == 0 and width <= 256

    @staticmethod
    def prepare(mask: DocumentMask, window: int | None, dtype: torch.dtype) -> None:
        boundaries(mask)

    @staticmethod
    def attend(q: Tensor, k: Tensor, v: Tensor, mask: DocumentMask, window: int | None, scale: float) -> Tensor:
        from torch.nn.attention.varlen import varlen_attn

        ends, longest = boundaries(mask), q.shape[1]
        sees = (-1 if window is None else window - 1, 0)  # tokens to the left and to the right of a token's own
        call: Any = varlen_attn
        flat = (x.flatten(0, 1) for x in (q, k, v))  # (B T, H, K)
        return call(*flat, ends, ends, longest, longest, scale=scale, window_size=sees).view(q.shape)


@twin(attend, "flex")
class FlexAttention(DenseAttention):
    """torch.nn.attention.flex_attention."""

    automatic_uncompiled = False  # in a model that generates it would be compiled for every length

    @staticmethod
    def serves(device: torch.device, dtype: torch.dtype, width: int, compiling: bool) -> bool:
        return device.type == "cuda" and width >= 16

    @staticmethod
    def prepare(mask: DocumentMask, window: int | None, dtype: torch.dtype) -> None:
        block_mask(mask, window)

    @staticmethod
    def attend(q: Tensor, k: Tensor, v: Tensor, mask: DocumentMask, window: int | None, scale: float) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (B, H, T, K)
        return flex_attention(q.is_cuda)(q, k, v, block_mask=block_mask(mask, window), scale=scale).transpose(1, 2)


def flex_attention(on_cuda: bool) -> Any:
    """torch's function, compiled unless it is being compiled; on the CPU it serves tests only."""
    from torch.nn.attention.flex_attention import flex_attention

    # Uncompiled it would form all T x T scores.
    return flex_attention if torch.compiler.is_compiling() or not on_cuda else _compiled_flex()


@functools.cache
def _compiled_flex() -> Any:
    import torch._dynamo
    from torch.nn.attention.flex_attention import flex_attention

    # As fullgraph, it is an error to reach the limit; else it would then run uncompiled, and say so in a log.
    torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
    return torch.compile(flex_attention, dynamic=False, fullgraph=True)


def boundaries(mask: DocumentMask) -> Tensor:
    """The first token of each document in the rows laid end to end, and the number of tokens: int32 (documents + 1,)."""

    def compute() -> Tensor:
        first = mask.first.flatten()
        begins = (first.nonzero() if mask.count is None else first.nonzero_static(size=mask.count)).squeeze(1)
        return torch.cat((begins, begins.new_full((1,), mask.documents.numel()))).int()

    return mask.once(("boundaries",), compute)


def block_mask(mask: DocumentMask, window: int | None) -> Any:
    """FlexAttention's block mask: the whole condition as its function, and which blocks of 128 x 128 have any pair, or all.

    What a query sees is a range that never moves back, so blocks follow from the first and last queries': nothing is T x T.
    """

    def compute() -> Any:
        from torch.nn.attention.flex_attention import BlockMask

        lowest = mask.lowest(window)
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
        ordered = (*_ordered(some), *_ordered(whole), *_ordered(some.mT), *_ordered(whole.mT))
        return BlockMask((time, time), *ordered, BLOCK_SIZE=(BLOCK, BLOCK), mask_mod=allow)

    return mask.once(("blocks", window), compute)


def _ordered(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """The number of blocks (B, n, n) in each row, int32 (B, 1, n), and their places, those first, int32 (B, 1, n, n)."""
    marked = blocks.int().contiguous()
    number, which = marked.sum(-1, dtype=torch.int32), marked.argsort(dim=-1, descending=True, stable=True).int()
    # FlexAttention's kernel finds a row of the batch by the stride of the heads' axis, which torch 2.11's compiler, when it makes
    # the tensor itself, takes for free, as the axis is one long: in evaluation all rows but the first then had a wrong mask.
    batch, n = number.shape
    return number.as_strided((batch, 1, n), (n, n, 1)), which.as_strided((batch, 1, n, n), (n * n, n * n, n, 1))
