"""A bank's two passes over memory, each reading gradients and writing weights where they are, float32 (bank.c)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ramen.kernels.cpu.library import Library, kernels
from ramen.ops.bank import Factor, accumulate, descend
from ramen.ops.operation import twin


@twin(accumulate, "cpu")
def _(gradients: list[Tensor], momentum: Tensor, *, beta: Factor, nesterov: bool) -> Tensor:
    library = _kernels(momentum, *gradients)
    if library is None:
        return NotImplemented
    used = torch.empty_like(momentum) if nesterov else None
    library.accumulate(gradients, _sizes(gradients), len(gradients), momentum, used, float(beta))
    return momentum if used is None else used


@twin(descend, "cpu")
def _(
    weights: Sequence[Tensor], direction: Tensor, *, rate: Factor, decay: Factor, cautious: bool,
    decay_target: Tensor | None, step_scale: Tensor | None, radius: Tensor | None,
) -> None:  # fmt: skip
    operands = [t for t in (decay_target, step_scale) if t is not None]
    library = _kernels(direction, *weights, *operands) if radius is None else None
    if library is None:
        return NotImplemented
    library.descend(
        weights, _sizes(weights), len(weights), direction, decay_target, step_scale, direction[0].numel(),
        float(rate), float(decay), cautious,
    )  # fmt: skip
    return None


def _kernels(*tensors: Tensor) -> Library | None:
    served = tensors[0].numel() > 0 and all(t.dtype == torch.float32 and t.is_contiguous() for t in tensors)
    return kernels(*tensors) if served else None


def _sizes(tensors: Sequence[Tensor]) -> list[int]:
    return [t.numel() for t in tensors]
