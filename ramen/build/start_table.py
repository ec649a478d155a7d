"""The start-up table: a run as it was understood, before its first step."""

from typing import Any

import torch
from rich.console import Group
from rich.table import Table

from ramen.build.dry_run import DryRun

COMPILED = {"on": ", compiled", "regional": ", blocks compiled", "off": ""}


def start_table(config: dict[str, Any], facts: dict[str, Any], dry_run: DryRun, device: torch.device) -> Group:
    """Choices, optimizer groups, sizes and cost of a run, for a console."""
    choices = Table("choice", "option", title="ramen", title_justify="left", box=None, pad_edge=False)
    order = [*config]
    kinds = {kind: kind.partition(".")[0] for kind in facts["choices"]}
    for kind in sorted(kinds, key=lambda kind: order.index(kinds[kind]) if kinds[kind] in order else -1):
        choices.add_row(kind, facts["choices"][kind])
    groups = Table("role", "tensors", "parameters", "trained by", "lr", "weight decay", box=None, pad_edge=False)
    for group in dry_run.groups:
        trained_by = f"{config[group.to]['_target_'].rpartition('.')[2]} ({group.to})"
        numbers = (str(len(group.names)), f"{group.elements:,}", trained_by, f"{group.lr:g}", f"{group.weight_decay:g}")
        groups.add_row(group.role, *numbers)
    trainer, memory = dry_run.trainer, facts["memory"]
    sizes = Table(box=None, show_header=False, pad_edge=False)
    sizes.add_row(
        "parameters", f"{facts['parameters']:,} ({facts['parameters_without_embeddings']:,} without embeddings)"
    )
    sizes.add_row("FLOPs a token", f"{facts['flops_per_token'] / 1e6:,.1f} M")
    sizes.add_row("budget", f"{trainer.budget}, {trainer.rows(1.0) * trainer.sequence_length:,} tokens a step")
    sizes.add_row("data", facts["data"])
    peak, activations = (f"{size / 2**20:,.0f}" for size in (facts["memory_peak"], memory["activations"]))
    sizes.add_row("memory", f"{peak} MiB at the peak, estimated; {activations} of them activations")
    how = f"{facts['precision']}{COMPILED[facts['compile']]}, {torch.get_num_threads()} threads"
    sizes.add_row("device", f"{device}, {how}, attention by {facts['attention_backend']}")
    sizes.add_row("seed", str(config["seed"]))
    return Group(choices, "", groups, "", sizes, "")
