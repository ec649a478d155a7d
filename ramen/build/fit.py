"""`trainer.micro_batch_tokens=auto`: the largest micro-batch that fits, a batch halved as often as it must be.

A CPU goes by the estimate (running out of memory there is the end of the process); on CUDA the estimate says where to begin, and
what is tried on the device decides. The result of a run does not depend on it: gradients are of the mean over the whole batch.
"""

from collections.abc import Callable

import torch

from ramen import device as machine
from ramen.build.memory import Sizes, peak_bytes
from ramen.errors import ConfigError

USABLE = {"cpu": 0.8, "cuda": 1.0}  # of what is free; a CPU's memory has other owners too


def estimated_rows(largest: int, memory: Callable[[int], Sizes], device: torch.device) -> int:
    """The rows, `largest` or a half of it as often as needed, whose estimated peak is within what is free on the device."""
    free = machine.free_memory(device)
    room, rows = USABLE[device.type] * free, largest
    while (needed := peak_bytes(memory(rows), device)) > room:
        if rows == 1:
            raise ConfigError(
                f"trainer.micro_batch_tokens: auto finds no room for a single row, got {free / 1e6:,.0f} MB free "
                f"and {needed / 1e6:,.0f} MB needed; allowed are a smaller model, shorter rows or activation_checkpointing=true"
            )
        rows = (rows + 1) // 2
    return rows
