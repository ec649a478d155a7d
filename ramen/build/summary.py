"""The account a run gives of itself: its table at the start, its figures at the end, and a failure in words."""

import logging
from pathlib import Path
from typing import Any

import torch
from rich.console import Group
from rich.table import Table

from ramen.build.dry_run import DryRun
from ramen.config.check import config_hash
from ramen.config.secret import scrub
from ramen.errors import ConfigError, RamenError
from ramen.runs import checkpoint
from ramen.runs.folder import RunFolder
from ramen.training.config import Status
from ramen.training.loop import Trainer
from ramen.training.loss import bits_per_byte

COMPILED = {"on": ", compiled", "regional": ", blocks compiled", "off": ""}

log = logging.getLogger("ramen")


def start_table(config: dict[str, Any], facts: dict[str, Any], dry_run: DryRun, device: torch.device) -> Group:
    """Choices, optimizer groups, sizes and cost of a run, for a console."""
    choices = Table("choice", "option", title="ramen", title_justify="left", box=None, pad_edge=False)
    order = {section: position for position, section in enumerate(config)}
    for kind in sorted(facts["choices"], key=lambda kind: order.get(kind.partition(".")[0], -1)):
        choices.add_row(kind, facts["choices"][kind])
    groups = Table("role", "tensors", "parameters", "trained by", "lr", "weight decay", box=None, pad_edge=False)
    for group in dry_run.groups:
        trained_by = f"{config[group.to]['_target_'].rpartition('.')[2]} ({group.to})"
        numbers = (str(len(group.names)), f"{group.elements:,}", trained_by, f"{group.lr:g}", f"{group.weight_decay:g}")
        groups.add_row(group.role, *numbers)
    peak, activations = (f"{size / 2**20:,.0f}" for size in (facts["memory_peak"], facts["memory"]["activations"]))
    tokens = dry_run.trainer.rows(1.0) * dry_run.trainer.sequence_length
    run_on = f"{facts['precision']}{COMPILED[facts['compile']]}, {torch.get_num_threads()} threads"
    sizes = Table(box=None, show_header=False, pad_edge=False)
    for name, text in {
        "parameters": f"{facts['parameters']:,} ({facts['parameters_without_embeddings']:,} without embeddings)",
        "FLOPs a token": f"{facts['flops_per_token'] / 1e6:,.1f} M",
        "budget": f"{dry_run.trainer.budget}, {tokens:,} tokens a step",
        "data": facts["data"],
        "memory": f"{peak} MiB at the peak, estimated; {activations} of them activations",
        "device": f"{device}, {run_on}, attention by {facts['attention_backend']}",
        "seed": str(config["seed"]),
    }.items():
        sizes.add_row(name, text)
    return Group(choices, "", groups, "", sizes, "")


def ending(status: Status, reason: str | None, trainer: Trainer) -> dict[str, Any]:
    """The fields of the summary that are known after the last step."""
    p, bytes_per_token = trainer.progress, trainer.bytes_per_token
    final = None if status == "stopped" else p.val_loss
    return {
        "status": status,
        "error": reason,
        "final_val_loss": final,
        "final_val_bits_per_byte": None if final is None else bits_per_byte(final, bytes_per_token),
        "best_val_loss": p.best_val_loss,
        "final_train_loss": p.train_loss,
        "steps": p.step,
        "skipped_steps": p.skipped_steps,
        "tokens": p.tokens,
        "flops_per_token": p.flops / p.tokens if p.tokens else None,  # the mean over the phases that were trained
        "train_seconds": p.seconds,
        "evaluation_seconds": p.evaluation_seconds,
        "compile_seconds": p.compile_seconds,
        "tokens_per_second": p.tokens / p.seconds if p.seconds else 0.0,
        "peak_memory": trainer.memory.bytes(),
    }


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
    digest = config_hash(config)
    if checkpoint.checkpoints(folder) and RunFolder(folder).written_hash() != digest:
        return
    failed = {"status": "failed", "error": reason_of(error), "seed": config.get("seed"), "config_hash": digest}
    try:
        before = RunFolder(folder).ending()
        if before.get("status") in (None, "failed"):
            RunFolder(folder).finish({**before, **failed, **facts})
    except RamenError as problem:
        log.warning("the failure could not be recorded in %s: %s", folder, problem)
