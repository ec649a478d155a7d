"""The start-up table: what was asked for, as it was understood, before the first step."""

from typing import Any

import torch
from rich.console import Group as Stack
from rich.table import Table

from ramen.optimizer.optimizers import ParamGroup
from ramen.training.config import TrainerConfig


def start_table(
    config: dict[str, Any],
    facts: dict[str, Any],
    groups: list[ParamGroup],
    plan: TrainerConfig,
    device: torch.device,
    precision: torch.dtype,
) -> Stack:
    """Choices, routing, sizes and cost of a run, for a console."""
    chosen = Table("choice", "option", title="ramen", title_justify="left", box=None, pad_edge=False)
    order = {kind: place for place, kind in enumerate(config)}
    for kind, choice in sorted(facts["choices"].items(), key=lambda pair: order.get(pair[0].partition(".")[0], -1)):
        chosen.add_row(kind, choice)
    routes = Table("role", "tensors", "parameters", "trained by", "lr", "weight decay", box=None, pad_edge=False)
    for group in groups:
        by = config[group.to]["_target_"].rpartition(".")[2]
        routes.add_row(
            group.role,
            str(len(group.names)),
            f"{group.elements:,}",
            f"{by} ({group.to})",
            f"{group.lr:g}",
            f"{group.weight_decay:g}",
        )
    sizes = Table(box=None, show_header=False, pad_edge=False)
    memory = facts["memory"]
    compiled = {"on": ", compiled", "regional": ", blocks compiled", "off": ""}[facts["compile"]]
    number_type = str(precision).removeprefix("torch.") + compiled
    told = {
        "parameters": f"{facts['parameters']:,} ({facts['parameters_without_embeddings']:,} without embeddings)",
        "FLOPs a token": f"{facts['flops_per_token'] / 1e6:,.1f} M",
        "budget": f"{plan.budget}, {plan.rows(1.0) * plan.sequence_length:,} tokens a step",
        "data": facts["data"],
        "memory": f"{facts['memory_peak'] / 2**20:,.0f} MiB at the peak, estimated; "
        f"{memory['activations'] / 2**20:,.0f} of them activations",
        "device": f"{device}, {number_type}, {torch.get_num_threads()} threads, attention by {facts['attention_backend']}",
        "seed": str(config["seed"]),
    }
    for name, value in told.items():
        sizes.add_row(name, value)
    return Stack(chosen, "", routes, "", sizes, "")
