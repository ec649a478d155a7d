"""Attention's backend `kernel`: one kernel forward and one backward (attention.c).

Work follows the visible keys; nothing T x T is kept. It can do all that `attention` does without its options, where the position is
a rotation by a table or none.
Source: flash attention, Dao et al. 2022, arXiv 2205.14135.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ramen.kernels.attention import DenseAttention
from ramen.kernels.compiler import opaque
from ramen.kernels.cpu.library import exist, kernels, serves
from ramen.ops.attention import attend
from ramen.ops.document_mask import DocumentMask
from ramen.ops.operation import twin
from ramen.ops.rotary import positions


@twin(attend, "kernel")
class KernelAttention(DenseAttention):
    """attention.c."""

    @staticmethod
    def serves(device: torch.device, dtype: torch.dtype, width: int, compiling: bool) -> bool:
        return device.type == "cpu" and exist(dtype)

    @staticmethod
    def takes(tensor: Tensor) -> bool:
        return serves(tensor)

    @staticmethod
    def prepare(mask: DocumentMask, window: int | None, dtype: torch.dtype) -> None:
        """Documents' starts are all it reads."""

    @staticmethod
    def attend(q: Tensor, k: Tensor, v: Tensor, mask: DocumentMask, window: int | None, scale: float) -> Tensor:
        return _Attention.apply(torch.stack((q, k, v), dim=2), None, mask.starts, window or q.shape[1], scale, False)

    @staticmethod
    def attend_merged(
        qkv: Tensor, position: Any, mask: DocumentMask, window: int | None, scale: float, qk_norm: bool
    ) -> Tensor:
        table: Any = getattr(position, "table", NotImplemented)  # see ramen.ops.rotary
        if table is NotImplemented:
            return NotImplemented
        table = None if table is None else positions(table, qkv.shape[1]).float()
        return _Attention.apply(qkv, table, mask.starts, window or qkv.shape[1], scale, qk_norm)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, table: Tensor | None, starts: Tensor, window: int, scale: float, qk_norm: bool
    ) -> Tensor:
        ctx.settings = (window, scale, qk_norm)
        y, denominators = _forward(qkv, table, starts, *ctx.settings)
        ctx.save_for_backward(qkv, table, starts, y, denominators)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _backward(grad, *ctx.saved_tensors, *ctx.settings), None, None, None, None, None


def _results(qkv: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    """Room for the result (B, T, H, K) and for the logarithms of its denominators (B, H, T), for qkv (B, T, 3, H, K)."""
    batch, time, _, heads, width = qkv.shape
    return qkv.new_empty(batch, time, heads, width), qkv.new_empty(batch, heads, time, dtype=torch.float32)


@opaque("attention", _results)
def _forward(
    qkv: Tensor, table: Tensor | None, starts: Tensor, window: int, scale: float, qk_norm: bool
) -> tuple[Tensor, Tensor]:
    y, denominators = _results(qkv)
    library: Any = kernels(qkv)
    library.attention_forward(qkv.contiguous(), table, starts, y, denominators, *y.shape, window, scale, qk_norm)
    return y, denominators


@opaque("attention_backward", lambda grad, qkv, *others: qkv.new_empty(qkv.shape))
def _backward(
    grad: Tensor, qkv: Tensor, table: Tensor | None, starts: Tensor, y: Tensor, denominators: Tensor,
    window: int, scale: float, qk_norm: bool,
) -> Tensor:  # fmt: skip
    dqkv = qkv.new_empty(qkv.shape)
    library: Any = kernels(qkv)
    inputs = (qkv.contiguous(), table, starts, y, denominators, grad.contiguous())
    library.attention_backward(*inputs, dqkv, *y.shape, window, scale, qk_norm)
    return dqkv
