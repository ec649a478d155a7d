"""Checkpoints: `checkpoint/step_00000100/` with the weights in safetensors and everything else a resumed run needs.

A checkpoint is written under a name that is not one, flushed to disk and renamed: it is there whole or not at all. meta.json
holds the sha256 of every other file, which is compared before the file is read: a flipped bit is an error, never trained on.
Cost: a checkpoint is read once more for its sha256 when written, and once before it is loaded.
"""

import contextlib
import hashlib
import math
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from ramen.config.check import config_hash
from ramen.errors import ConfigError, DataError
from ramen.runs.folder import CONFIG, ENDED, RunFolder
from ramen.runs.lock import exclusive
from ramen.runs.schema import FORMAT, CheckpointMeta

FOLDER = "checkpoint"
WEIGHTS, STATE, META = "model.safetensors", "state.pt", "meta.json"


def save(
    run_folder: Path, step: int, model: nn.Module, state: dict[str, Any], *, keep: int, keep_best: bool = False,
    val_loss: float | None = None,
) -> Path:  # fmt: skip
    """Write a checkpoint of `step`; remove all but the last `keep` and, with `keep_best`, the one of the lowest `val_loss`.

    DataError when the disk does not take it: what was there before is there still.
    """
    final = run_folder / FOLDER / f"step_{step:08d}"
    partial = run_folder / FOLDER / f".partial_{step:08d}"
    try:
        for debris in final.parent.glob(".partial_*"):  # of a process that was killed: a run folder has one writer
            shutil.rmtree(debris)
        partial.mkdir(parents=True)
        save_file(
            {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}, partial / WEIGHTS
        )
        torch.save(state, partial / STATE)
        shutil.copymode(partial / STATE, partial / WEIGHTS)  # safetensors leaves the umask out of account
        sums = {name: _sha256(partial / name) for name in (WEIGHTS, STATE)}
        meta = CheckpointMeta(format=FORMAT, step=step, val_loss=val_loss, sha256=sums)
        (partial / META).write_text(meta.model_dump_json())
        for path in (*partial.iterdir(), partial):
            _flush(path)
        if final.exists():  # a damaged one: a step is never saved twice
            shutil.rmtree(final)
        partial.rename(final)
        _flush(final.parent)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise DataError(f"{final}: checkpoint could not be written: {error}; {_free(run_folder)}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    _remove_old(run_folder, keep, keep_best)
    return final


def checkpoints(run_folder: Path) -> list[Path]:
    """Whole checkpoints of a run folder, oldest first."""
    saved = (run_folder / FOLDER).glob("step_*")
    return sorted(path for path in saved if path.name[5:].isdecimal() and (path / META).is_file())


def latest(run_folder: Path) -> Path:
    """The newest checkpoint. DataError when the folder has none."""
    if not run_folder.is_dir():
        raise DataError(f"{run_folder}: no such run folder")
    if saved := checkpoints(run_folder):
        return saved[-1]
    raise DataError(f"{run_folder}: holds no checkpoint to resume from; expected {FOLDER}/step_*/{META}")


def best(run_folder: Path) -> Path:
    """The checkpoint with the lowest validation loss of those that are kept. DataError when none was evaluated."""
    losses = {}
    for path in checkpoints(run_folder):
        with contextlib.suppress(DataError):  # a damaged one is not the best
            loss = CheckpointMeta.read(path / META).get("val_loss")
            if loss is not None and math.isfinite(loss):
                losses[path] = loss
    if not losses:
        raise DataError(
            f"{run_folder}: holds no checkpoint with a validation loss; save some with trainer.keep_best=true"
        )
    return min(losses, key=losses.__getitem__)


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step_"))


def refuse_used(folder: Path) -> None:
    """ConfigError when a new run would overwrite another one's checkpoints or result; DataError when that is damaged."""
    if checkpoints(folder) or RunFolder(folder).summary().get("status") in (*ENDED, "stopped"):
        raise ConfigError(
            f"hydra.run.dir: {folder} holds a run already, which would be overwritten; allowed are resume={folder}, to continue "
            "it, or another folder"
        )


def unfinished(base: Path, config: dict[str, Any], is_run: bool = False) -> Path | None:
    """The newest run of this config that has a checkpoint, has not ended, and nobody works in.

    Looked for in `base/<date>/<run>`; or `base` is that run's folder, and then it may have ended: it ends the same again, at once.
    """
    wanted = config_hash(config)
    folders = [base] if is_run else (path.parent for path in base.glob(f"*/*/{CONFIG}"))
    for folder in sorted(folders, key=str, reverse=True):
        if (
            RunFolder(folder).written_hash() == wanted
            and RunFolder(folder).ending().get("status") not in (ENDED[1:] if is_run else ENDED)
            and checkpoints(folder)
        ):
            with exclusive(folder, wait=False) as free:
                if free:
                    return folder
    return None


def verify(checkpoint: Path, *names: str) -> None:
    """DataError unless the format is this one and the files (all, if none is named) are, byte for byte, what was written."""
    problem = _problem(checkpoint, names or (WEIGHTS, STATE))
    if problem is None:
        return
    # An older checkpoint that is whole is named and not used: whether to lose steps is the user's choice.
    older = [path for path in checkpoints(checkpoint.parent.parent) if path.name < checkpoint.name]
    whole = next((path for path in reversed(older) if _problem(path, (WEIGHTS, STATE)) is None), None)
    advice = f"{whole.name} is whole: to go on from there, remove {checkpoint}" if whole else "no older one is whole"
    raise DataError(f"{problem}; {advice}")


def load_weights(checkpoint: Path, model: nn.Module) -> None:
    """Fill the model's parameters. DataError names what is damaged, missing, left over or of another shape."""
    verify(checkpoint, WEIGHTS)
    try:
        model.load_state_dict(load_file(checkpoint / WEIGHTS))
    except (OSError, SafetensorError) as error:
        raise DataError(f"{checkpoint / WEIGHTS}: cannot be read: {error}") from error
    except RuntimeError as error:
        raise DataError(f"{checkpoint}: is of another model: {error}") from error


def load_state(checkpoint: Path) -> dict[str, Any]:
    """Everything but the weights. Only tensors and plain values are read: a pickle that would run code is refused."""
    verify(checkpoint, STATE)
    path = checkpoint / STATE
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for damaged or malicious files
        raise DataError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from error
    if not isinstance(state, dict):
        raise DataError(f"{path}: is not the state of a run, got {type(state).__name__}")
    return state


def _remove_old(run_folder: Path, keep: int, keep_best: bool) -> None:
    saved = checkpoints(run_folder)
    stay = set(saved[-keep:])
    if keep_best:
        with contextlib.suppress(DataError):  # none was evaluated yet
            stay.add(best(run_folder))
    for old in saved:
        if old not in stay:
            aside = old.with_name(f".partial_{old.name}")  # renamed first: half removed it must not look whole
            with contextlib.suppress(OSError):
                old.rename(aside)
            shutil.rmtree(aside, ignore_errors=True)


def _problem(checkpoint: Path, names: tuple[str, ...]) -> str | None:
    try:
        sums = CheckpointMeta.read(checkpoint / META).get("sha256", {})
        for name in names:
            if sums.get(name) != _sha256(checkpoint / name):
                return f"{checkpoint / name}: is damaged, its sha256 is not the one in {META}"
    except DataError as error:
        return str(error)
    except OSError as error:
        return f"{error.filename or checkpoint}: cannot be read: {error.strerror}"
    return None


def _free(folder: Path) -> str:
    try:  # torch does not say that a disk is full
        return f"{shutil.disk_usage(folder).free:,} bytes are free there"
    except OSError as error:
        return f"{folder}: {error.strerror}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    with contextlib.suppress(OSError):  # some file systems do not sync folders
        os.fsync(descriptor)
    os.close(descriptor)
