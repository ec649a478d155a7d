"""The console, always on: a progress bar on a terminal, a line a record elsewhere, and train.log in the run folder.

A terminal that is gone (a closed window, a reader that left the pipe) costs the lines, not the run.
"""

import logging
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ramen.logger.base import Logger

log = logging.getLogger("ramen")


class ConsoleLogger(Logger):
    """Shows loss, speed and how long it will take."""

    def __init__(self, console: Console):
        self.console = console
        self.progress: Progress | None = None
        self.task: Any = None

    def start(self, folder: Path, config: dict[str, Any], facts: dict[str, Any]) -> None:
        log.info("run folder %s", folder)
        if self.console.is_terminal and not self.console.quiet:
            self.progress = Progress(
                TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"), TimeElapsedColumn(),
                TimeRemainingColumn(), console=self.console, transient=True,
            )  # fmt: skip
            self.task = self.progress.add_task("training", total=1.0)
            self.progress.start()

    def show(self, *what: Any, style: str | None = None) -> None:
        """Print, as long as there is someone to print to."""
        try:
            self.console.print(*what, style=style, highlight=False, markup=False, soft_wrap=True)
        except (OSError, SystemExit) as error:  # rich ends the process when a pipe breaks
            self.console.quiet = True
            log.warning("the console is gone, and train.log goes on: %s", error)

    def advance(self, progress: float) -> None:
        if self.progress:
            self.progress.update(self.task, completed=progress)

    def record(self, line: dict[str, Any]) -> None:
        told = _tell(line)
        log.info(told)
        if self.progress:
            self.progress.update(self.task, description=told)
        if line["val_loss"] is not None or not self.progress:
            self.show(told)

    def finish(self, summary: dict[str, Any]) -> None:
        if self.progress:
            self.progress.stop()
        log.info("%s", summary)
        end = [
            f"{summary['status']} after {summary['steps']:,} steps, {summary['tokens']:,} tokens, {summary['train_seconds']:.1f} s"
        ]
        if summary.get("final_val_loss") is not None:
            end.append(
                f"validation loss {summary['final_val_loss']:.4f} ({summary['final_val_bits_per_byte']:.3f} bits per byte)"
            )
        if summary.get("error"):
            end.append(summary["error"])
        self.show("; ".join(end), style="bold")


def _tell(line: dict[str, Any]) -> str:
    parts = [f"step {line['step']:>6,}", f"{line['tokens'] / 1e6:8.2f} M tokens"]
    if line["train_loss"] is not None:
        parts.append(f"train {line['train_loss']:.4f}")
    if line["val_loss"] is not None:
        parts.append(f"val {line['val_loss']:.4f}")
    parts.append(f"{line['tokens_per_second']:,.0f} tokens/s")
    if line["mfu"] is not None:
        parts.append(f"{line['mfu']:.0%} MFU")
    return "  ".join(parts)
