"""Attention by the backend that is asked for, or by the first that can serve (ramen/kernels/attention.py)."""

from typing import Any

import torch
from torch import Tensor

from ramen.device import compute_dtype
from ramen.kernels.attention import backend_for
from ramen.ops.attention import Backend, attend, attention, in_pairs, prepare
from ramen.ops.document_mask import DocumentMask
from ramen.ops.operation import twin


@twin(attention)
def _(
    qkv: Tensor, position: Any, mask: DocumentMask, *, window: int | None, scale: float, qk_norm: bool,
    key_offset: int | None = None, value: Tensor | None = None, paired: bool = False, backend: Backend = "auto",
) -> Tensor:  # fmt: skip
    if key_offset is not None or value is not None or paired:
        return NotImplemented
    chosen, gain = backend_for(backend, qkv, torch.compiler.is_compiling()), getattr(position, "gain", 1.0)
    return chosen.attend_merged(qkv, position, mask, window, scale * gain, qk_norm)


@twin(attend)
def _(
    q: Tensor, k: Tensor, v: Tensor, mask: DocumentMask, window: int | None, scale: float, backend: Backend
) -> Tensor:
    return backend_for(backend, q, torch.compiler.is_compiling()).attend(q, k, v, mask, window, scale)


@twin(prepare)
def _(
    x: Tensor, mask: DocumentMask, width: int, *, window: int | None, paired: bool, backend: Backend, compiling: bool
) -> None:
    dtype = compute_dtype(x)
    mask, window = in_pairs(mask, window) if paired else (mask, window)
    chosen = backend_for(backend, x.new_empty((0, width), dtype=dtype), compiling or torch.compiler.is_compiling())
    chosen.prepare(mask, window, dtype)
