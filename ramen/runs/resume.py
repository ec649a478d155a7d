"""Which folder a run may have: one process at a time, nothing overwritten, and `resume=auto` finds what to go on with."""

import contextlib
from pathlib import Path
from typing import Any, Required

import yaml
from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from ramen.config.check import config_hash
from ramen.errors import ConfigError, DataError
from ramen.runs import checkpoint
from ramen.runs.atomic import read_json, write_atomically
from ramen.runs.folder import CONFIG, ENDED, ENVIRONMENT, OVERRIDES, SUMMARY
from ramen.runs.lock import exclusive

_held = contextlib.ExitStack()  # the lock of this process's run, until it ends


class _Summary(TypedDict, total=False):
    """What is relied on in a summary.json, which says more."""

    status: Required[str]
    error: str | None
    overrides: list[str]
    config_hash: str
    steps: int
    tokens: int
    tokens_per_second: float
    final_val_loss: float | None


def claim(folder: Path) -> None:
    """Hold a run folder, made if need be, for the life of this process. DataError when another process is at work in it."""
    if not _held.enter_context(exclusive(folder, wait=False)):
        raise DataError(
            f"{folder}: another process is at work in it; wait for its end, or choose another hydra.run.dir"
        )


def remember(folder: Path, words: list[str]) -> None:
    """Make the words of a continuation that was accepted those that the next `resume=` repeats."""
    write_atomically(folder / OVERRIDES, yaml.safe_dump(words).encode())


def refuse_used(folder: Path) -> None:
    """ConfigError when a new run would overwrite another one's checkpoints or result."""
    if checkpoint.checkpoints(folder) or status(folder) in (*ENDED, "stopped"):
        raise ConfigError(
            f"hydra.run.dir: {folder} holds a run already, which would be overwritten; allowed are resume={folder}, to continue "
            "it, or another folder"
        )


def status(folder: Path) -> str | None:
    """How a run ended; None while it runs, or when it was killed."""
    return summary(folder).get("status")


def summary(folder: Path) -> dict[str, Any]:
    """What a run says of itself, without what is damaged; empty before its end, and where it does not say how it ended."""
    found = _read(folder / SUMMARY)
    try:
        TypeAdapter(_Summary).validate_python(found, strict=True)
    except ValidationError as error:
        for problem in error.errors():
            found.pop(str(problem["loc"][0]), None)
    return found if "status" in found else {}


def precision(folder: Path) -> str:
    """That of a run begun before, for its continuation: what `auto` finds is measured, and may be another one today."""
    return {"float32": "fp32", "bfloat16": "bf16"}.get(str(_read(folder / ENVIRONMENT).get("precision")), "auto")


def _read(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def unfinished(base: Path, config: dict[str, Any], is_run: bool = False) -> Path | None:
    """The newest run of this config that has a checkpoint, has not ended, and nobody works in.

    Looked for in `base/<date>/<run>`; or `base` is that run's folder, and then it may have ended: it ends the same again, at once.
    """
    wanted = config_hash(config)
    found = [base] if is_run else (path.parent for path in base.glob(f"*/*/{CONFIG}"))
    for folder in sorted(found, key=str, reverse=True):
        if (
            written_hash(folder) == wanted
            and status(folder) not in (ENDED[1:] if is_run else ENDED)
            and checkpoint.checkpoints(folder)
        ):
            with exclusive(folder, wait=False) as free:
                if free:
                    return folder
    return None


def written_hash(folder: Path) -> str | None:
    """What the run of a folder computes, as its config.yaml has it; None where there is none."""
    try:
        config = yaml.safe_load((folder / CONFIG).read_bytes())
        return config_hash(config) if isinstance(config, dict) else None
    except (OSError, ValueError, TypeError, yaml.YAMLError, RecursionError):
        return None
