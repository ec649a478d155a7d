"""Operations of a connection on its streams, with gradients written out.

Autograd would write a tensor of the streams' size for each use of them, and passes over memory are the cost here. Autocast is off
in the backward passes, as it is around the forward ones.
"""

from typing import Any

import torch
from torch import Tensor

from ramen.ops.operation import twin
from ramen.ops.rms_norm import EPS
from ramen.ops.streams import normed_linear, read_and_mix, write


@twin(normed_linear)
def _(x: Tensor, weight: Tensor) -> Tensor:
    return _NormedLinear.apply(x, weight)


class _NormedLinear(torch.autograd.Function):
    """The norm is applied to the few outputs, not to the many inputs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square()  # (..., 1)
        inverse = torch.rsqrt(square / x.shape[-1] + EPS)
        y = (x @ weight.T) * inverse  # not in place: torch 2.11 compiles what is, and returned, without a gradient
        ctx.save_for_backward(x, weight, y, inverse)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        x, weight, y, inverse = ctx.saved_tensors
        grad = grads[0]
        along = (grad * y).sum(-1, keepdim=True) * inverse.square() / -x.shape[-1]
        scaled = grad * inverse
        with torch.autocast(x.device.type, enabled=False):
            grad_x = (scaled @ weight).addcmul_(x, along)
            return grad_x, scaled.flatten(0, -2).T @ x.flatten(0, -2)


@twin(read_and_mix)
def _(h: Tensor, read: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    return _ReadAndMix.apply(h, read.contiguous(), shift)


class _ReadAndMix(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, read: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(h, read, shift)
        return torch.bmm(read, h), torch.baddbmm(h, shift, h)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h, read, shift = ctx.saved_tensors
        grad_x, grad_mixed = grads
        with torch.autocast(h.device.type, enabled=False):
            grad_h = torch.baddbmm(grad_mixed, shift.mT, grad_mixed).baddbmm_(read.mT, grad_x)
            return grad_h, torch.bmm(grad_x, h.mT), torch.bmm(grad_mixed, h.mT)


@twin(write)
def _(h: Tensor, weight: Tensor, delta: Tensor) -> Tensor:
    return _Write.apply(h, weight.contiguous(), delta)


class _Write(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, weight: Tensor, delta: Tensor) -> Tensor:
        ctx.save_for_backward(weight, delta)
        return torch.addcmul(h, weight.unsqueeze(-1), delta.unsqueeze(1))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weight, delta = ctx.saved_tensors
        with torch.autocast(delta.device.type, enabled=False):
            grad_weight = torch.einsum("nsfw,nfw->nsf", grads[0], delta)
            return grads[0], grad_weight, torch.einsum("nsfw,nsf->nfw", grads[0], weight)
