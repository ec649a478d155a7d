"""Hints to torch.compile, which the kernels need: an operation that it takes whole, and a result that it takes for a constant."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")
Function = TypeVar("Function", bound=Callable[..., Any])


def opaque(name: str, fake: Callable[..., Any]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let torch.compile take a function of tensors for one operation, ramen::name; `fake` returns results of the right shapes."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        compiled: Any = torch.library.custom_op(f"ramen::{name}", function, mutates_args=())
        compiled.register_fake(fake)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            work = compiled if torch.compiler.is_compiling() else function
            return work(*args, **kwargs)

        return call

    return decorate


def constant(function: Function) -> Function:
    """torch.compiler.assume_constant_result, whose import takes a second of every process that compiles nothing."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function
