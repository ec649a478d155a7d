"""How far a long piece of work is, on stderr: a live line on a terminal, else a line a minute."""

import time
from typing import Self

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

LINE_SECONDS = 60.0


class Display:
    """`with Display("preparing", on) as display: display.tell("3 documents")`."""

    def __init__(self, title: str, on: bool):
        self.title = title
        self.on = on
        self.console = Console(stderr=True)
        live = on and self.console.is_terminal
        text = TextColumn("{task.description}", markup=False)
        self.bar = Progress(
            SpinnerColumn(), text, TimeElapsedColumn(), console=self.console, transient=True, disable=not live
        )
        self.task = self.bar.add_task(title, total=None)
        self.started = self.due = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the beginning; never zero."""
        return max(time.monotonic() - self.started, 1e-3)

    def tell(self, how_far: str) -> None:
        """Show it."""
        line = f"{self.title}: {how_far}"
        self.bar.update(self.task, description=line)
        if self.on and not self.console.is_terminal and time.monotonic() - self.due >= LINE_SECONDS:
            self.due = time.monotonic()
            self.say(line)

    def say(self, line: str) -> None:
        """Write a line that stays."""
        if self.on:
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()
