"""The operations of ramen.ops, faster. A file has the name of the file in ops/ that it serves.

any/   for any device, in torch: gradients written out, or products in another order
cpu/   in C
cuda/  in Triton, or by torch's own kernels for CUDA alone; graphs.py replays the launches of a whole training step
attention.py chooses attention's backend.
`RAMEN_KERNELS=off` leaves all of them out: plain torch then computes the same to rounding, more slowly, and the head forms all
logits at once.
"""

import functools
import os
import pkgutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import torch

from ramen.kernels.cpu import library, memory
from ramen.ops.operation import TWINS

WITHOUT_TRITON = ("attention", "orthonormal")  # of the CUDA twins


@functools.cache
def register() -> None:
    """Register the twins that can work in this process: once, before the first model or optimizer is built."""
    if os.environ.get("RAMEN_KERNELS") == "off":
        return
    _import("any")
    if library.load(torch.float32):
        _import("cpu")
    if torch.cuda.is_available():
        _import("cuda", *(() if find_spec("triton") else WITHOUT_TRITON))


def prepare_memory(device: torch.device, return_freed: bool = False) -> None:
    """Set up the memory of the process for tensors on a device, before the first of a run.

    `return_freed` takes less memory and more time.
    """
    # Less memory is what the estimate of a run counts on; more speed is a kernel's business.
    if device.type == "cpu" and (return_freed or os.environ.get("RAMEN_KERNELS") != "off"):
        memory.set_up_heap(return_freed)


def _import(folder: str, *names: str) -> None:
    for name in names or [module.name for module in pkgutil.iter_modules([str(Path(__file__).parent / folder)])]:
        import_module(f"{__name__}.{folder}.{name}")


@contextmanager
def plain_torch(*places: str) -> Iterator[None]:
    """Within, no twin serves, or none of these places ("any", "cpu", "cuda", "kernel" ...): what a kernel is compared with."""
    registered = {operation: dict(twins) for operation, twins in TWINS.items()}
    for twins in TWINS.values():
        for place in places or list(twins):
            twins.pop(place, None)
    try:
        yield
    finally:
        for operation, twins in registered.items():
            TWINS[operation].update(twins)


def status() -> str:
    """The means by which operations on the CPU are computed, in one line."""
    if os.environ.get("RAMEN_KERNELS") == "off":
        return "plain torch, which is slower (RAMEN_KERNELS=off)"
    return "C kernels" if library.load(torch.float32) else f"plain torch, which is slower ({library.trouble()})"
