"""Find the run folders below a folder, at any depth, and read them."""

import os
from collections.abc import Iterable
from pathlib import Path

from ramen.errors import DataError, RamenError
from ramen.runs.folder import CONFIG, METRICS, SUMMARY
from ramen.runs.read import Run, read_run

NEVER_RUNS = {"checkpoint", "checkpoints", "wandb"}  # large, or full of foreign files named like ours


def discover(folders: Iterable[Path]) -> tuple[list[Path], list[str]]:
    """Run folders below `folders`, each once and sorted, and one warning for each folder that only resembles a run.

    Errors: DataError if a folder given does not exist, or if there is no run at all.
    """
    folders = list(folders)
    runs: dict[Path, Path] = {}
    warnings: list[str] = []
    for top in folders:
        if not top.is_dir():
            raise DataError(f"{top}: no such folder; give run folders, or folders that hold runs at any depth")
        before = len(runs)
        for folder, files in _walk(top, warnings):
            if CONFIG in files and files & {METRICS, SUMMARY}:
                runs.setdefault(folder.resolve(), folder)
            elif CONFIG in files:
                warnings.append(f"{folder}: skipped, has {CONFIG} but neither {METRICS} nor {SUMMARY}")
            elif METRICS in files:
                warnings.append(f"{folder}: skipped, has {METRICS} but no {CONFIG}")
        if len(runs) == before and len(folders) > 1:
            warnings.append(f"{top}: holds no run that is not already counted")
    if not runs:
        places = ", ".join(map(str, folders)) or "no folder"
        seen = "".join(f"\n  {line}" for line in warnings[:5])
        raise DataError(f"{places}: no runs found; a run is a folder with {CONFIG} and {METRICS} or {SUMMARY}{seen}")
    return sorted(runs.values()), warnings


def read_runs(folders: Iterable[Path]) -> tuple[list[Run], list[str]]:
    """Read the runs that `discover` finds. A run that cannot be read is one of the warnings. DataError if none can be."""
    run_folders, warnings = discover(folders)
    runs = []
    for folder in run_folders:
        try:
            runs.append(read_run(folder))
        except (RamenError, OSError, ValueError) as error:
            warnings.append(f"{folder}: skipped, {error}")
    if not runs:
        raise DataError("no readable run:\n  " + "\n  ".join(warnings[:10]))
    return runs, [*warnings, *(line for run in runs for line in run.warnings)]


def _walk(top: Path, warnings: list[str]) -> Iterable[tuple[Path, set[str]]]:
    def unreadable(error: OSError) -> None:
        warnings.append(f"{error.filename}: skipped, {error.strerror}")

    for folder, names, files in os.walk(top, onerror=unreadable):
        names[:] = sorted(n for n in names if n not in NEVER_RUNS and not n.startswith("."))
        yield Path(folder), set(files)
