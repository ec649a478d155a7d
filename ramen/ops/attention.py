"""Attention of a merged projection: QK norm, position, key offset, value embedding, softmax over the tokens that may be seen.

Backends, all of the same condition (ramen/ops/document_mask.py):
kernel  one C kernel forward and one backward on the CPU (attention.c): work follows the visible keys, nothing T x T is kept
sdpa    torch's own attention with a dense mask: any device, any number type
flex    FlexAttention on CUDA, compiled; its block mask only leaves blocks out, the whole condition is in its mask function
varlen  torch's variable-length flash attention on CUDA, in half precision; told no number of documents, it waits for the device
Source: flash attention, Dao et al. 2022, arXiv 2205.14135; FlexAttention: Dong et al. 2024, arXiv 2412.05496.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ramen.device import compute_dtype
from ramen.kernels.cpu.library import kernels, serves
from ramen.ops.document_mask import DocumentMask
from ramen.ops.rms_norm import rms_norm
from ramen.ops.rotary import positions

Backend = Literal["auto", "kernel", "sdpa", "flex", "varlen"]
HALF = (torch.bfloat16, torch.float16)


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
    and head i + H / 2 share one softmax over both their keys, the second head's of a token being after the first's. A `position`
    with a `table` (see ramen.ops.rotary) does no more than rotate by it, or nothing if it is None: so can the kernel.
    ValueError when `backend` cannot serve tensors like these.
    """
    scale *= getattr(position, "gain", 1.0)
    chosen = _serve(backend, qkv, mask, torch.compiler.is_compiling())
    if chosen == "kernel" and key_offset is None and value is None and not paired and hasattr(position, "table"):
        table = None if position.table is None else positions(position.table, qkv.shape[1]).float()
        return _Kernel.apply(qkv, table, mask.starts, window or qkv.shape[1], scale, qk_norm)
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
    y = BACKENDS[chosen](q, k, v, mask, window, scale)
    return y.reshape(qkv.shape[:2] + qkv.shape[3:]) if paired else y


def prepare(
    x: Tensor, mask: DocumentMask, width: int, *, window: int | None, paired: bool, backend: Backend, compiling: bool
) -> None:
    """Let the mask make what attention over x (..., D) will ask it for: not inside a layer that is compiled, or run again.

    `width` is a head's.
    """
    dtype = compute_dtype(x)
    like = x.new_empty((0, width), dtype=dtype)
    chosen = _serve(backend, like, mask, compiling or torch.compiler.is_compiling())
    if paired:
        mask, window = _in_pairs(mask, window)
    if chosen == "sdpa":
        mask.additive(window, dtype)
    elif chosen == "flex":
        mask.blocks(window)
    elif chosen == "varlen":
        _ = mask.boundaries


def _in_pairs(mask: DocumentMask, window: int | None) -> tuple[DocumentMask, int | None]:
    """For two heads in one softmax: 2 w - 1 places reach the w-th token back from both heads, and no further."""
    return mask.paired(), window and 2 * window - 1


def exclude_self(y: Tensor, v: Tensor, share: Tensor) -> Tensor:
    """y (B, T, H, K) less `share` (H,) of its part along v (B, T, H, K), each token's own value."""
    wide, v = y.float(), v.float()
    along = (torch.linalg.vecdot(wide, v) / torch.linalg.vecdot(v, v).clamp_min(1e-12)).unsqueeze(-1)  # (B, T, H, 1)
    return torch.addcmul(wide, share[:, None] * along, v, value=-1).to(y.dtype)


def choose(asked: Backend, device: torch.device, dtype: torch.dtype, width: int, compiling: bool) -> Backend:
    """The backend that serves heads of `width`; ValueError when the one asked for cannot, with what it needs."""
    on_cuda = device.type == "cuda"
    able: dict[Backend, bool] = {
        "kernel": device.type == "cpu" and dtype in (torch.float32, torch.bfloat16),
        "varlen": on_cuda and dtype in HALF and not compiling and width % 8 == 0 and width <= 256,
        "flex": on_cuda and width >= 16,
        "sdpa": True,
    }
    if asked == "auto":  # uncompiled in float32, as a model that generates, flex would be compiled for every length
        able["flex"] &= compiling
        return next(name for name, can in able.items() if can)
    if not able[asked]:
        raise ValueError(f"backend: {asked} needs {NEEDS[asked]}; allowed here are auto, sdpa")
    return asked


NEEDS = {
    "kernel": "the CPU and float32 or bfloat16",
    "flex": "a CUDA device, for torch has no backward pass for it on others, and heads of 16 dimensions or more",
    "varlen": "a CUDA device, precision=bf16, compile=off and heads of a multiple of 8 dimensions up to 256",
}


def _serve(asked: Backend, qkv: Tensor, mask: DocumentMask, compiling: bool) -> Backend:
    """The backend for qkv (..., K)."""
    if isinstance(qkv, FakeTensor) and qkv.device.type == "cpu" and asked in ("flex", "varlen"):
        asked = "kernel"  # in a run's sketch, which keeps for the backward pass what they keep
    chosen = choose(asked, qkv.device, qkv.dtype, qkv.shape[-1], compiling)
    if chosen == "kernel" and not serves(qkv, mask.documents):
        if asked == "kernel":
            raise ValueError(
                "backend: kernel needs gcc, float32 or bfloat16, and RAMEN_KERNELS not off; allowed here are auto, sdpa"
            )
        chosen = "sdpa"
    return chosen


def offset_keys(k: Tensor, start: int, mask: DocumentMask) -> Tensor:
    """k (B, T, H, K) with dimensions from `start` on taken from the token before, but for the first token of a document.

    Source: modded-nanogpt (key offset), which also crosses documents: one layer can then continue a repeated pair of tokens.
    """
    moving, still = k.split((start, k.shape[-1] - start), dim=-1)
    before = torch.cat((still[:, :1], still[:, :-1]), dim=1)
    return torch.cat((moving, torch.where(mask.first[..., None, None], still, before)), dim=-1)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: DocumentMask, window: int | None, scale: float) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (B, H, T, K)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask.additive(window, q.dtype), scale=scale).transpose(
        1, 2
    )


def _flex(q: Tensor, k: Tensor, v: Tensor, mask: DocumentMask, window: int | None, scale: float) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (B, H, T, K)
    return _flex_attention(q.is_cuda)(q, k, v, block_mask=mask.blocks(window), scale=scale).transpose(1, 2)


def _flex_attention(on_cuda: bool) -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    # Uncompiled it would form all T x T scores, and on the CPU it serves tests only.
    return flex_attention if torch.compiler.is_compiling() or not on_cuda else _compiled_flex()


@functools.cache
def _compiled_flex() -> Any:
    import torch._dynamo
    from torch.nn.attention.flex_attention import flex_attention

    # As fullgraph, it is an error to reach the limit; else it would then run uncompiled, and say so in a log.
    torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
    return torch.compile(flex_attention, dynamic=False, fullgraph=True)


def _varlen(q: Tensor, k: Tensor, v: Tensor, mask: DocumentMask, window: int | None, scale: float) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    ends = mask.boundaries
    longest = q.shape[1]
    sees = (-1 if window is None else window - 1, 0)  # tokens to the left and to the right of a token's own
    attend: Any = varlen_attn
    flat = (x.flatten(0, 1) for x in (q, k, v))  # (B T, H, K)
    return attend(*flat, ends, ends, longest, longest, scale=scale, window_size=sees).view(q.shape)


def _kernel(q: Tensor, k: Tensor, v: Tensor, mask: DocumentMask, window: int | None, scale: float) -> Tensor:
    return _Kernel.apply(torch.stack((q, k, v), dim=2), None, mask.starts, window or q.shape[1], scale, False)


BACKENDS: dict[str, Callable[..., Tensor]] = {"kernel": _kernel, "sdpa": _sdpa, "flex": _flex, "varlen": _varlen}


class _Kernel(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, table: Tensor | None, starts: Tensor, window: int, scale: float, qk_norm: bool
    ) -> Tensor:
        ctx.settings = (window, scale, qk_norm)
        y, denominators = _attend(qkv, table, starts, *ctx.settings)
        ctx.save_for_backward(qkv, table, starts, y, denominators)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _attend_backward(grad, *ctx.saved_tensors, *ctx.settings), None, None, None, None, None


# Operations of torch's, for a compiler to call and not to look into.
@torch.library.custom_op("ramen::attention", mutates_args=())
def _attend(
    qkv: Tensor, table: Tensor | None, starts: Tensor, window: int, scale: float, qk_norm: bool
) -> tuple[Tensor, Tensor]:
    y, denominators = _shapes(qkv)
    library: Any = kernels("attention", qkv)
    library.attention_forward(qkv.contiguous(), table, starts, y, denominators, *y.shape, window, scale, qk_norm)
    return y, denominators


@_attend.register_fake
def _shapes(qkv: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    """Room for the result (B, T, H, K) and for the logarithms of its denominators (B, H, T), for qkv (B, T, 3, H, K)."""
    batch, time, _, heads, width = qkv.shape
    return qkv.new_empty(batch, time, heads, width), qkv.new_empty(batch, heads, time, dtype=torch.float32)


@torch.library.custom_op("ramen::attention_backward", mutates_args=())
def _attend_backward(
    grad: Tensor, qkv: Tensor, table: Tensor | None, starts: Tensor, y: Tensor, denominators: Tensor,
    window: int, scale: float, qk_norm: bool,
) -> Tensor:  # fmt: skip
    dqkv = qkv.new_empty(qkv.shape)
    library: Any = kernels("attention", qkv)
    given = (qkv.contiguous(), table, starts, y, denominators, grad.contiguous())
    library.attention_backward(*given, dqkv, *y.shape, window, scale, qk_norm)
    return dqkv


@_attend_backward.register_fake
def _(grad: Tensor, qkv: Tensor, *rest: Any) -> Tensor:
    return qkv.new_empty(qkv.shape)
