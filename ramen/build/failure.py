"""A run that failed: the reason in words, and a summary that holds it."""

import logging
from pathlib import Path
from typing import Any

import torch

from ramen.config.check import config_hash
from ramen.config.secret import scrub
from ramen.errors import ConfigError, RamenError
from ramen.runs import checkpoint, resume
from ramen.runs.folder import RunFolder

log = logging.getLogger("ramen")


def reason_of(error: BaseException) -> str:
    """The reason of a failure, for a summary."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted at once, without a checkpoint of this step"
    return scrub(str(error) if isinstance(error, RamenError) else f"{type(error).__name__}: {error}")


def explained(error: BaseException, config: dict[str, Any]) -> BaseException:
    """The error, or a ConfigError that says what to lower if memory ran out, which torch reports in three ways."""
    text = str(error)
    on_cpu = isinstance(error, RuntimeError) and ("can't allocate memory" in text or "not enough memory" in text)
    if not (on_cpu or isinstance(error, MemoryError | torch.OutOfMemoryError)):
        return error
    now, least = config["trainer"]["micro_batch_tokens"], config["data"]["sequence_length"]
    reason = (text or "out of memory").splitlines()[0]
    return ConfigError(
        f"trainer.micro_batch_tokens: memory is not enough, got {now} ({reason}); lower it, which leaves the result "
        f"as it is, down to data.sequence_length={least} if need be; or take a smaller model"
    )


def write_failure(folder: Path, config: dict[str, Any], facts: dict[str, Any], error: BaseException) -> None:
    """Record a failure in the run folder, unless it is of a refused continuation: the run there stays as it was."""
    config_name = config_hash(config)
    if checkpoint.checkpoints(folder) and resume.written_hash(folder) != config_name:
        return
    failed = {"status": "failed", "error": reason_of(error), "seed": config.get("seed"), "config_hash": config_name}
    try:
        before = RunFolder(folder).ending()
        if before.get("status") in (None, "failed"):
            RunFolder(folder).finish({**before, **failed, **facts})
    except RamenError as problem:
        log.warning("the failure could not be recorded in %s: %s", folder, problem)
