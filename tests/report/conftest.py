"""Run folders made of numbers, as the trainer writes them: what the report's tests read.

Fixtures hand out the functions, because test modules cannot import a conftest under importlib mode.
"""

import copy
import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from ramen.report.grouping import group
from ramen.runs.read import read_runs

CONFIG: dict[str, Any] = {
    "seed": 0,
    "name": "run",
    "model": {"_target_": "ramen.nn.gpt.GPT", "layers": 4, "dim": 128, "heads": 4},
    "mlp": {"_target_": "ramen.nn.mlp.relu2.ReLU2", "expansion": 4},
    "attention": {"_target_": "ramen.nn.attention.multi_head.MultiHead", "window_tokens": None},
    "residual": {"_target_": "ramen.nn.residual.standard.Standard"},
    "optimizer": {"_target_": "ramen.optimizer.adamw.AdamW", "lr": 0.01, "weight_decay": 0.1},
    "auxiliary": {"_target_": "torch.optim.AdamW", "lr": 0.003, "betas": [0.9, 0.95]},
    "routing": {"matrix": {"to": "optimizer"}, "embedding": {"to": "auxiliary", "lr_scale": 1.0}},
    "schedule": {"lr": {"_target_": "ramen.schedule.wsd", "cooldown_fraction": 0.4}},
    "data": {"sequence_length": 256, "batch_tokens": 8192, "folder": "somewhere"},
    "trainer": {"steps": 200, "record_every_steps": 10},
    "precision": "bf16",
    "device": "auto",
    "logger": {"project": "ramen"},
}


def _loss_curve(final: float, steps: int = 200, every: int = 10, start: float = 6.0) -> list[tuple[int, float]]:
    """(step, validation loss): falls like a power law from `start` and ends at `final` exactly."""
    points = range(0, steps + 1, every)
    shape = [(1 + 20 * s / steps) ** -0.7 for s in points]
    return [
        (s, final + (start - final) * (f - shape[-1]) / (1 - shape[-1])) for s, f in zip(points, shape, strict=True)
    ]


def run_folder(
    folder: Path,
    optimizer: str = "adamw",
    *,
    lr: float = 0.01,
    seed: int = 0,
    final: float = 3.0,
    status: str = "finished",
    error: str | None = None,
    config: dict[str, Any] | None = None,
    choices: dict[str, str] | None = None,
    summary: dict[str, Any] | None = None,
    environment: dict[str, Any] | None = None,
    curve: list[tuple[int, float]] | None = None,
    seconds_per_step: float = 0.5,
) -> Path:
    """Write one run folder; `config` (dotted keys), `summary` and `environment` override what would be written."""
    folder.mkdir(parents=True)
    full = copy.deepcopy(CONFIG)
    full["optimizer"] |= {"_target_": f"ramen.optimizer.{optimizer}.Class", "lr": lr}
    for key, value in {"seed": seed, "name": f"{optimizer}-{seed}", **(config or {})}.items():
        node = full
        *sections, leaf = key.split(".")
        for section in sections:
            node = node.setdefault(section, {})
        node[leaf] = value
    (folder / "config.yaml").write_text(yaml.dump(full, Dumper=yaml.CSafeDumper, sort_keys=False))
    points = _loss_curve(final) if curve is None else curve
    tokens = full["data"]["batch_tokens"]
    lines = [
        {"step": s, "tokens": s * tokens, "seconds": s * seconds_per_step, "train_loss": v + 0.05, "val_loss": v}
        | {"lr": lr, "grad_norm": 1.0, "tokens_per_second": tokens / seconds_per_step, "mfu": None, "peak_memory": None}
        for s, v in points
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    steps = points[-1][0] if points else 0
    chosen = {"optimizer": optimizer, "mlp": "relu2", "schedule": "wsd", "model": "tiny", "data": "corpus"} | (
        choices or {}
    )
    content = {
        "status": status,
        "error": error,
        "final_val_loss": final if status == "finished" else None,
        "best_val_loss": final,
        "steps": steps,
        "tokens": steps * tokens,
        "train_seconds": steps * seconds_per_step,
        "tokens_per_second": tokens / seconds_per_step,
        "peak_memory": 2**30,
        "parameters": 1_000_000,
        "seed": seed,
        "choices": chosen,
        "data_hash": "d" * 64,
    } | (summary or {})
    (folder / "summary.json").write_text(json.dumps(content))
    machine = {
        "git_commit": "a" * 40, "device": "Planted GPU", "threads": 2, "versions": {"torch": "2.11"},
        "started": "2026-01-01 12:00:00", "choices": chosen,
    } | (environment or {})  # fmt: skip
    (folder / "environment.json").write_text(json.dumps(machine))
    return folder


def sweep_folder(
    top: Path, finals: dict[str, float], *, seeds=3, lrs=(0.005, 0.01, 0.02), noise=0.01, plant=None
) -> Path:
    """A fair sweep: every optimizer at every rate and seed, best at the middle rate, seeds shift all methods alike.

    `plant(optimizer, lr, seed)` returns further arguments of `run_folder`: where a test plants what is unfair.
    """
    chance = random.Random(0)
    shared = [chance.gauss(0, 0.05) for _ in range(seeds)]
    middle = math.log(lrs[len(lrs) // 2])
    for optimizer, final in finals.items():
        for lr in lrs:
            for seed in range(seeds):
                more = plant(optimizer, lr, seed) if plant else {}
                worse = 0.15 * abs(math.log(lr) - middle)
                value = final + worse + shared[seed] + chance.gauss(0, noise)
                arguments = {"lr": lr, "seed": seed, "final": value} | more
                run_folder(top / f"{optimizer}-{lr}-{seed}", optimizer, **arguments)
    return top


@pytest.fixture
def write_run():
    return run_folder


@pytest.fixture
def write_sweep():
    return sweep_folder


@pytest.fixture
def read(tmp_path):
    """read(): the runs below tmp_path."""
    return lambda: read_runs([tmp_path])[0]


@pytest.fixture
def methods(read):
    """methods(*by): these runs as methods."""
    return lambda *by: group(read(), list(by or ["optimizer"]), "final_val_loss")
