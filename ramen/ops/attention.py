"""Attention of a merged projection: QK norm, position, key offset, value embedding, softmax over the tokens that may be seen.

    softmax(scale q k^T + mask) v,  mask: causal, same document, within the window (ramen/ops/document_mask.py)

Computed here by torch's own attention with a dense mask (`sdpa`), on any device and in any number type. Other backends of exactly
the same condition are in ramen/kernels/attention.py.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ramen.device import compute_dtype
from ramen.ops.document_mask import DocumentMask
from ramen.ops.operation import operation
from ramen.ops.rms_norm import rms_norm

Backend = Literal["auto", "kernel", "sdpa", "flex", "varlen"]


@operation
def attention(
    qkv: Tensor,
    position: Callable[[Tensor], Tensor],
    mask: DocumentMask,
    *,
    window: int | None,
    scale: float,
    qk_norm: bool,
    key_offset: int | None = None,
    value: Tensor | None = None,
    paired: bool = False,
    backend: Backend = "auto",
) -> Tensor:
    """qkv (B, T, 3, H, K) -> (B, T, H, K): softmax(scale q k^T) v, with q and k at RMS 1 if `qk_norm`, then at their positions.

    From dimension `key_offset` on, a key is its predecessor's in the document; `value` (B, T, H, K) is added to v; `paired`: head i
    and head i + H / 2 share one softmax over both their keys, the second head's of a token being after the first's.
    ValueError when `backend` cannot serve tensors like these.
    """
    scale *= getattr(position, "gain", 1.0)
    qk, v = qkv.split((2, 1), dim=2)  # split, for its backward pass is one concatenation
    qk = position(rms_norm(qk) if qk_norm else qk)  # (B, T, 2, H, K)
    q, k = qk.unbind(2)
    v = v.squeeze(2)
    if key_offset is not None:
        k = offset_keys(k, key_offset, mask)
    if value is not None:
        v = v + value.to(v.dtype)
    if paired:
        q, k, v = (z.reshape(z.shape[0], 2 * z.shape[1], -1, z.shape[3]) for z in (q, k, v))  # (B, 2 T, H / 2, K)
        mask, window = in_pairs(mask, window)
    return attend(q, k, v, mask, window, scale, backend).reshape(qkv.shape[:2] + qkv.shape[3:])


@operation
def attend(
    q: Tensor, k: Tensor, v: Tensor, mask: DocumentMask, window: int | None, scale: float, backend: Backend
) -> Tensor:
    """softmax(scale q k^T + mask) v of (B, T, H, K) each -> (B, T, H, K)."""
    if backend not in ("auto", "sdpa"):
        raise ValueError(f"backend: {backend} is one of ramen.kernels, which are off; allowed here are auto, sdpa")
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (B, H, T, K)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask.additive(window, q.dtype), scale=scale).transpose(
        1, 2
    )


@operation
def prepare(
    x: Tensor, mask: DocumentMask, width: int, *, window: int | None, paired: bool, backend: Backend, compiling: bool
) -> None:
    """Let the mask compute what attention over x (..., D) will ask it for: not inside a layer that is compiled, or run again.

    `width` is a head's.
    """
    mask, window = in_pairs(mask, window) if paired else (mask, window)
    mask.additive(window, compute_dtype(x))


def in_pairs(mask: DocumentMask, window: int | None) -> tuple[DocumentMask, int | None]:
    """For two heads in one softmax: 2 w - 1 places reach the w-th token back from both heads, and no further."""
    return mask.paired(), window and 2 * window - 1


def exclude_self(y: Tensor, v: Tensor, share: Tensor) -> Tensor:
    """y (B, T, H, K) less `share` (H,) of its part along v (B, T, H, K), each token's own value."""
    wide, v = y.float(), v.float()
    along = (torch.linalg.vecdot(wide, v) / torch.linalg.vecdot(v, v).clamp_min(1e-12)).unsqueeze(-1)  # (B, T, H, 1)
    return torch.addcmul(wide, share[:, None] * along, v, value=-1).to(y.dtype)


def offset_keys(k: Tensor, start: int, mask: DocumentMask) -> Tensor:
    """k (B, T, H, K) with dimensions from `start` on taken from the token before, but for the first token of a document.

    Source: modded-nanogpt (key offset), which also crosses documents: one layer can then continue a repeated pair of tokens.
    """
    moving, still = k.split((start, k.shape[-1] - start), dim=-1)
    before = torch.cat((still[:, :1], still[:, :-1]), dim=1)
    return torch.cat((moving, torch.where(mask.first[..., None, None], still, before)), dim=-1)
