"""Attention of a merged projection: QK norm, position, key offset, value embedding, softmax over the tokens that may be seen.

    softmax(scale q k^T + mask) v,  mask: causal, same document, within the window (ramen/ops/document_mask.py)

Computed here by torch's own attention with a dense mask (`sdpa`), on any device and in any number type. Other backends of exactly
the same condition register themselves under a name (ramen/kernels/cpu/attention.py, ramen/kernels/cuda/attention.py):
kernel  one C kernel forward and one backward on the CPU
flex    FlexAttention on CUDA, compiled
varlen  torch's variable-length flash attention on CUDA, in half precision
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional as F

from ramen.device import compute_dtype
from ramen.ops.document_mask import DocumentMask
from ramen.ops.operation import twins
from ramen.ops.rms_norm import rms_norm

Backend = Literal["auto", "kernel", "sdpa", "flex", "varlen"]
NEEDS = {
    "kernel": "the CPU, float32 or bfloat16, a C compiler, and RAMEN_KERNELS not off",
    "flex": "a CUDA device, for torch has no backward pass for it on others, and heads of 16 dimensions or more",
    "varlen": "a CUDA device, precision=bf16, compile=off and heads of a multiple of 8 dimensions up to 256",
}


class DenseAttention:
    """The backend `sdpa`, and the base of the others."""

    automatic_uncompiled = True  # whether `auto` takes it where nothing is compiled

    @staticmethod
    def serves(device: torch.device, dtype: torch.dtype, width: int, compiling: bool) -> bool:
        """Whether it can work on heads of so many dimensions."""
        return True

    @staticmethod
    def takes(tensor: Tensor) -> bool:
        """Whether it can work on a tensor of this class."""
        return True

    @staticmethod
    def prepare(mask: DocumentMask, window: int | None, dtype: torch.dtype) -> None:
        """Let the mask compute what `attend` will ask it for."""
        mask.additive(window, dtype)

    @staticmethod
    def attend(q: Tensor, k: Tensor, v: Tensor, mask: DocumentMask, window: int | None, scale: float) -> Tensor:
        """(B, T, H, K) each -> (B, T, H, K)."""
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (B, H, T, K)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask.additive(window, q.dtype), scale=scale)
        return y.transpose(1, 2)

    @staticmethod
    def attend_merged(
        qkv: Tensor, position: Any, mask: DocumentMask, window: int | None, scale: float, qk_norm: bool
    ) -> Tensor:
        """The whole of `attention` (B, T, 3, H, K) -> (B, T, H, K), without its options; NotImplemented if it cannot."""
        return NotImplemented


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
    chosen = _serve(backend, qkv, torch.compiler.is_compiling())
    if key_offset is None and value is None and not paired:
        y = chosen.attend_merged(qkv, position, mask, window, scale, qk_norm)
        if y is not NotImplemented:
            return y
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
        mask, window = _in_pairs(mask, window)
    y = chosen.attend(q, k, v, mask, window, scale)
    return y.reshape(qkv.shape[:2] + qkv.shape[3:]) if paired else y


REGISTERED = twins(attention)


def prepare(
    x: Tensor, mask: DocumentMask, width: int, *, window: int | None, paired: bool, backend: Backend, compiling: bool
) -> None:
    """Let the mask compute what attention over x (..., D) will ask it for: not inside a layer that is compiled, or run again.

    `width` is a head's.
    """
    dtype = compute_dtype(x)
    like = x.new_empty((0, width), dtype=dtype)
    if paired:
        mask, window = _in_pairs(mask, window)
    _serve(backend, like, compiling or torch.compiler.is_compiling()).prepare(mask, window, dtype)


def _in_pairs(mask: DocumentMask, window: int | None) -> tuple[DocumentMask, int | None]:
    """For two heads in one softmax: 2 w - 1 places reach the w-th token back from both heads, and no further."""
    return mask.paired(), window and 2 * window - 1


def backends() -> dict[str, type[DenseAttention]]:
    """Every backend in this process by name, in the order in which `auto` tries them."""
    return {**REGISTERED, "sdpa": DenseAttention}


def choose(asked: Backend, device: torch.device, dtype: torch.dtype, width: int, compiling: bool) -> str:
    """The backend that serves heads of `width`; ValueError when the one asked for cannot, with what it needs."""
    able = {name: each for name, each in backends().items() if each.serves(device, dtype, width, compiling)}
    if asked == "auto":
        return next(name for name, each in able.items() if compiling or each.automatic_uncompiled)
    if asked not in able:
        raise ValueError(f"backend: {asked} needs {NEEDS[asked]}; allowed here are {', '.join(['auto', *able])}")
    return asked


def _serve(asked: Backend, qkv: Tensor, compiling: bool) -> type[DenseAttention]:
    """The backend for qkv (..., K)."""
    if asked in ("flex", "varlen") and isinstance(qkv, FakeTensor) and qkv.device.type == "cpu":
        asked = "auto"  # in a dry run, where the CPU stands for a GPU: its kernel saves what they save for the backward pass
    chosen = backends()[choose(asked, qkv.device, qkv.dtype, qkv.shape[-1], compiling)]
    if chosen.takes(qkv):
        return chosen
    if asked != "auto":
        raise ValueError(
            f"backend: {asked} takes ordinary tensors, got {type(qkv).__name__}; allowed here are auto, sdpa"
        )
    return DenseAttention


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
