"""The folder of a run: one process at a time, nothing overwritten; `resume=auto` finds the run to go on with."""

from pathlib import Path
from typing import Any

from filelock import BaseFileLock

from ramen.config.check import config_hash
from ramen.errors import ConfigError, DataError
from ramen.runs import checkpoint
from ramen.runs.folder import CONFIG, ENDED, ENVIRONMENT, RunFolder
from ramen.runs.lock import exclusive, lock


def claim(folder: Path) -> BaseFileLock:
    """Hold a run folder, made if need be, as long as the lock is kept. DataError when another process is at work in it."""
    folder_lock = lock(folder)
    if folder_lock is None:
        raise DataError(
            f"{folder}: another process is at work in it; wait for its end, or choose another hydra.run.dir"
        )
    return folder_lock


def refuse_used(folder: Path) -> None:
    """ConfigError when a new run would overwrite another one's checkpoints or result; DataError when that is damaged."""
    if checkpoint.checkpoints(folder) or RunFolder(folder).summary().get("status") in (*ENDED, "stopped"):
        raise ConfigError(
            f"hydra.run.dir: {folder} holds a run already, which would be overwritten; allowed are resume={folder}, to continue "
            "it, or another folder"
        )


def precision(folder: Path) -> str:
    """Precision of a run for its continuation: `auto` is measured, and may come out otherwise today."""
    recorded = RunFolder(folder).environment().get("precision")
    return {"float32": "fp32", "bfloat16": "bf16"}.get(str(recorded), "auto")


def unfinished(base: Path, config: dict[str, Any], is_run: bool = False) -> Path | None:
    """The newest run of this config that has a checkpoint, has not ended, and nobody works in.

    Looked for in `base/<date>/<run>`; or `base` is that run's folder, and then it may have ended: it ends the same again, at once.
    """
    wanted = config_hash(config)
    folders = [base] if is_run else (path.parent for path in base.glob(f"*/*/{CONFIG}"))
    for folder in sorted(folders, key=str, reverse=True):
        if (
            written_hash(folder) == wanted
            and RunFolder(folder).ending().get("status") not in (ENDED[1:] if is_run else ENDED)
            and checkpoint.checkpoints(folder)
        ):
            with exclusive(folder, wait=False) as free:
                if free:
                    return folder
    return None


def written_hash(folder: Path) -> str | None:
    """Hash of the config of a run folder; None where there is none, it was changed, or is of ramen 0.1."""
    files = RunFolder(folder)
    try:
        files.refuse_altered(CONFIG, ENVIRONMENT)
        return files.environment().get("config_hash")
    except (DataError, TypeError):
        return None
