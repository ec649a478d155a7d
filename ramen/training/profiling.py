"""`trainer.profile_steps`: some steps of the run under torch's profiler, written to the run folder.

trace.json opens in https://ui.perfetto.dev or chrome://tracing; profile.txt lists the operations that took longest.
"""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.profiler import profile, schedule

BEFORE = 2  # steps: one that pays for what comes first, and one that warms the profiler up


def profiler(folder: Path, steps: int | None) -> AbstractContextManager[Any]:
    """A context that wants `step()` after every training step; None when nothing is to be profiled."""
    if steps is None:
        return nullcontext()

    def write(finished: Any) -> None:
        finished.export_chrome_trace(str(folder / "trace.json"))
        device = "cuda" if torch.cuda.is_available() else "cpu"
        table = finished.key_averages().table(sort_by=f"self_{device}_time_total", row_limit=40)
        (folder / "profile.txt").write_text(f"{table}\n")

    active = schedule(wait=BEFORE - 1, warmup=1, active=steps, repeat=1)
    return profile(schedule=active, on_trace_ready=write, profile_memory=True, acc_events=True)
