"""Backends of attention, and the choice between them.

kernel  one C kernel forward and one backward on the CPU (ramen/kernels/cpu/attention.py)
flex    FlexAttention on CUDA, compiled (ramen/kernels/cuda/attention.py, as is the next)
varlen  torch's variable-length flash attention on CUDA, in half precision
sdpa    torch's own attention with a dense mask, anywhere (ramen/ops/attention.py)
The first three register themselves under their names as twins of `attend`.
"""

from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from ramen.ops.attention import Backend, attend
from ramen.ops.document_mask import DocumentMask
from ramen.ops.operation import plain, twins

REGISTERED = twins(attend)
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
        """True if it can work on heads of so many dimensions."""
        return True

    @staticmethod
    def takes(tensor: Tensor) -> bool:
        """True if it can work on a tensor of this class."""
        return True

    @staticmethod
    def prepare(mask: DocumentMask, window: int | None, dtype: torch.dtype) -> None:
        """Let the mask compute what `attend` will ask it for."""
        mask.additive(window, dtype)

    @staticmethod
    def attend(q: Tensor, k: Tensor, v: Tensor, mask: DocumentMask, window: int | None, scale: float) -> Tensor:
        """(B, T, H, K) each -> (B, T, H, K)."""
        return plain(attend)(q, k, v, mask, window, scale, "sdpa")

    @staticmethod
    def attend_merged(
        qkv: Tensor, position: Any, mask: DocumentMask, window: int | None, scale: float, qk_norm: bool
    ) -> Tensor:
        """ramen.ops.attention.attention (B, T, 3, H, K) -> (B, T, H, K) without its options; NotImplemented if it cannot."""
        return NotImplemented


def backends() -> dict[str, type[DenseAttention]]:
    """Every backend in this process by name, in the order in which `auto` tries them."""
    return {**{name: each for name, each in REGISTERED.items() if name in NEEDS}, "sdpa": DenseAttention}


def choose(asked: Backend, device: torch.device, dtype: torch.dtype, width: int, compiling: bool) -> str:
    """The backend that serves heads of `width`; ValueError when the one asked for cannot, with what it needs."""
    able = {name: each for name, each in backends().items() if each.serves(device, dtype, width, compiling)}
    if asked == "auto":
        return next(name for name, each in able.items() if compiling or each.automatic_uncompiled)
    if asked not in able:
        raise ValueError(f"backend: {asked} needs {NEEDS[asked]}; allowed here are {', '.join(['auto', *able])}")
    return asked


def backend_for(asked: Backend, qkv: Tensor, compiling: bool) -> type[DenseAttention]:
    """The backend that serves qkv (..., K). ValueError when the one asked for cannot."""
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
