"""`trainer.micro_batch_tokens=auto` on CUDA: what is tried on the device decides how many rows a micro-batch has."""

import logging
from collections.abc import Callable

import torch

from ramen.errors import ConfigError

log = logging.getLogger("ramen")


def tried_rows(rows: int, step: Callable[[int], None], device: torch.device, reserved: int) -> int:
    """The rows, halved as often as needed, that `step` runs without exhausting the device, `reserved` bytes of it apart."""
    while True:
        try:
            # Optimizer state, which comes with the first step.
            kept = torch.empty(reserved, dtype=torch.uint8, device=device)
            step(rows)
            del kept
            return rows
        except torch.OutOfMemoryError as error:
            if rows == 1:
                told = str(error).partition("\n")[0]
                raise ConfigError(
                    f"trainer.micro_batch_tokens: auto finds no room for a single row, got {told}"
                ) from error
            log.info("micro-batches of %d rows do not fit, trying half of it", rows)
        kept = None  # type: ignore[assignment]
        if device.type == "cuda":
            torch.cuda.empty_cache()
        rows = (rows + 1) // 2
