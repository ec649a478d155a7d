"""Weights & Biases: one run a job, comparable without a click.

Group = the sweep (or the run's folder), tags and config = the choices, axes = step, tokens and seconds, summary = final and
best. W&B's own environment variables (WANDB_MODE, _PROJECT, _ENTITY, _RUN_GROUP, _NAME, _TAGS, _NOTES) win over the config.
wandb is imported only here and only when used; ramen.logger.base deals with what it raises.
"""

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ramen.errors import ConfigError
from ramen.logger.base import Logger

log = logging.getLogger("ramen")
UNTAGGED = ("logger", "trainer", "debug")  # choices that say nothing of a method
START_SECONDS = 20  # to wait for the service, less than ramen.logger.base's patience


def group_name(folder: Path, in_sweep: bool) -> str:
    """A sweep's jobs lie side by side in its folder; a single run's folder is its own sweep."""
    sweep = folder.parent if in_sweep else folder
    return f"{sweep.parent.name}/{sweep.name}"


@dataclass(kw_only=True, eq=False)
class WandB(Logger):
    """Online where the service answers and knows the user, else offline: it then says how to sync."""

    project: str
    entity: str | None
    group: str | None
    mode: Literal["auto", "online", "offline"]
    tags: list[str]

    def __post_init__(self) -> None:
        try:
            import wandb
        except ImportError as error:
            raise ConfigError(f"logger: cannot import wandb: {error}; pip install wandb, or logger=none") from error
        self.wandb = wandb
        self.run: Any = None

    def start(self, folder: Path, config: dict[str, Any], facts: dict[str, Any]) -> None:
        # W&B flattens it: `optimizer.lr` is a column. A key that has a dot itself cannot be filtered or grouped by there.
        logged = {**config, "facts": {**facts}}
        choices = logged["facts"].pop("choices")
        logged["choice"] = {kind.replace(".", "_"): option for kind, option in choices.items()}
        choice_tags = [f"{kind}={option}"[:64] for kind, option in choices.items() if kind not in UNTAGGED]
        variable = os.environ.get  # wandb reads its variables at its first run alone: a sweep's jobs are one process
        tags = variable("WANDB_TAGS")
        options = {
            "project": variable("WANDB_PROJECT") or self.project,
            "entity": variable("WANDB_ENTITY") or self.entity,
            "group": variable("WANDB_RUN_GROUP") or self.group or group_name(folder, facts["job"] is not None),
            "name": variable("WANDB_NAME") or folder.name,
            "notes": variable("WANDB_NOTES"),
            "tags": tags.split(",") if tags else [*choice_tags, *self.tags],
            "config": logged,
            "dir": str(folder),
            "id": facts["run_id"],
            "resume": "allow" if facts["resumed_step"] else None,  # a new run never goes on with another one's curve
            "reinit": "finish_previous",
            "settings": self.wandb.Settings(quiet=True, console="off", init_timeout=START_SECONDS),
        }
        mode: Any = variable("WANDB_MODE") or self.mode
        if mode in ("auto", "online"):
            try:
                if not self.wandb.login(prompt=False):
                    raise ConnectionError("there is no API key (wandb login, WANDB_API_KEY)")
                self.run = self.wandb.init(mode="online", **options)
            except Exception as error:  # wandb raises many kinds for a refused key or no network
                log.warning("W&B cannot be reached, the run is kept offline: %s", error)
                mode = "offline"
        if self.run is None:
            self.run = self.wandb.init(mode=mode, **options)
        for axis in ("step", "tokens", "seconds"):
            self.run.define_metric(axis, hidden=True)
        for metric in ("val_loss", "val_bits_per_byte"):  # a run that is not done has its best in the run table, too
            self.run.define_metric(metric, step_metric="step", summary="min")
        self.run.define_metric("*", step_metric="step")
        if mode == "offline":
            log.warning("W&B is offline; %s", self.remedy())

    def record(self, line: dict[str, Any]) -> None:
        # W&B's own step is the run's, so that a resumed run goes on where it was and logs nothing twice.
        self.run.log({key: value for key, value in line.items() if value is not None}, step=line["step"])

    def diagnose(self, line: dict[str, Any]) -> None:
        self.record({key if key == "step" else f"diagnostics/{key}": value for key, value in line.items()})

    def finish(self, summary: dict[str, Any]) -> None:
        self.run.summary.update({key: value for key, value in summary.items() if not isinstance(value, (dict, list))})
        self.run.finish(exit_code=0 if summary["status"] in ("finished", "stopped", "diverged") else 1)

    def remedy(self) -> str:
        return f"later: wandb sync {self.run.settings.sync_dir}" if self.run else ""
