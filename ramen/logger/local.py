"""The loggers that are always on: the console, train.log, and the other files of the run folder."""

import logging
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ramen.logger.base import Logger
from ramen.runs.folder import RunFolder

log = logging.getLogger("ramen")


class ConsoleLogger(Logger):
    """Shows loss, speed and how long it will take."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
        self.progress: Progress | None = None
        self.task: Any = None

    def start(self, folder: Path, config: dict[str, Any], facts: dict[str, Any]) -> None:
        log.info("run folder %s", folder)
        if self.console.is_terminal:
            bar = BarColumn(), TextColumn("{task.percentage:>3.0f} %"), TimeElapsedColumn(), TimeRemainingColumn()
            self.progress = Progress(TextColumn("{task.description}"), *bar, console=self.console, transient=True)
            self.task = self.progress.add_task("training", total=1.0)
            self.progress.start()

    def show(self, *values: Any, style: str | None = None) -> None:
        self.console.print(*values, style=style)

    def advance(self, progress: float) -> None:
        if self.progress:
            self.progress.update(self.task, completed=progress)

    def record(self, line: dict[str, Any]) -> None:
        losses = [f"{name} {line[f'{name}_loss']:.4f}" for name in ("train", "val") if line[f"{name}_loss"] is not None]
        mfu = [] if line["mfu"] is None else [f"{line['mfu']:.0%} MFU"]
        tokens = f"step {line['step']:>6,}", f"{line['tokens'] / 1e6:8.2f} M tokens"
        text = "  ".join([*tokens, *losses, f"{line['tokens_per_second']:,.0f} tokens/s", *mfu])
        log.info(text)
        if self.progress:
            self.progress.update(self.task, description=text)
        if line["val_loss"] is not None or not self.progress:
            self.show(text)

    def finish(self, summary: dict[str, Any]) -> None:
        if self.progress:
            self.progress.stop()
        log.info("%s", summary)
        text = "{status} after {steps:,} steps, {tokens:,} tokens, {train_seconds:.1f} s".format_map(summary)
        if summary.get("final_val_loss") is not None:
            losses = "; validation loss {final_val_loss:.4f} ({final_val_bits_per_byte:.3f} bits per byte)"
            text += losses.format_map(summary)
        self.show("; ".join(filter(None, [text, summary.get("error")])), style="bold")


class FileLogger(RunFolder, Logger):
    """Writes each record as a line at once. Of a resumed run the `records` up to `resumed_step` stay, later ones go."""

    def __init__(self, path: Path, part: dict[str, Any], resumed_step: int | None, records: int = 0):
        super().__init__(path)
        self.part, self.resumed_step, self.records = part, resumed_step, records

    def start(self, folder: Path, config: dict[str, Any], facts: dict[str, Any]) -> None:
        self.begin(config, self.part, self.resumed_step, self.records)
