"""Operations: functions in plain torch that may have faster twins.

    @operation
    def square(x):                # what is computed
        return x * x

    @twin(square, "cpu")          # elsewhere: how it is computed on one type of device
    def _(x):
        return NotImplemented     # for arguments that it cannot serve

A call asks the twin of the device's type, then the twin for any device, then the plain function. `plain(square)` is that
function. No twin is known until another package registers it (ramen.kernels).
Cost: less than a microsecond a call, for operations that take from a hundred up. torch.library.custom_op was measured in its place:
65 microseconds more, and torch.compile could no longer fuse what an operation is made of.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")
Function = TypeVar("Function", bound=Callable[..., Any])

ANY = "any"
TWINS: dict[str, dict[str, Any]] = {}
"""Operation -> type of device -> twin."""


def operation(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function be served by its twins; its first argument is a tensor, or a sequence of tensors, of the device."""
    registered = twins(function)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if registered:
            for place in (_device_type(args[0]), ANY):
                if place in registered:
                    result = registered[place](*args, **kwargs)
                    if result is not NotImplemented:
                        return result
        return function(*args, **kwargs)

    return call


def twin(of: Callable[..., Any], place: str = ANY) -> Callable[[Function], Function]:
    """Register what is decorated as the twin of an operation on a type of device, or under a name (ramen.kernels.attention)."""

    def register(function: Function) -> Function:
        twins(of)[place] = function
        return function

    return register


def twins(of: Callable[..., Any]) -> dict[str, Any]:
    """The registered twins of an operation, now and later: place -> twin."""
    return TWINS.setdefault(f"{of.__module__}.{of.__qualname__}", {})


def plain(of: Callable[P, R]) -> Callable[P, R]:
    """The plain function of an operation, whose own operations may still be served by twins."""
    return of.__wrapped__  # type: ignore[attr-defined]


def _device_type(argument: Any) -> str:
    first: Tensor | Sequence[Tensor] = argument
    if isinstance(first, Tensor):
        return first.device.type
    return first[0].device.type if first else ANY
