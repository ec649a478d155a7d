"""A profiled run leaves a trace that Perfetto reads and a table of operations, and is the same run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ramen.errors import ConfigError


def test_the_trace_holds_the_operations_of_the_steps_asked_for(
    train: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    plain = train("plain", "trainer.steps=5")
    profiled = train("run", "trainer.steps=5", "trainer.profile_steps=2")
    assert profiled["final_val_loss"] == plain["final_val_loss"]
    events = json.loads((tmp_path / "run" / "trace.json").read_text())["traceEvents"]
    names = [event.get("name", "") for event in events]
    assert names.count("ProfilerStep#2") == names.count("ProfilerStep#3") == 1 and "ProfilerStep#4" not in names
    assert "aten::mm" in names and "aten::mm" in (tmp_path / "run" / "profile.txt").read_text()
    assert not (tmp_path / "plain" / "trace.json").exists()


def test_a_run_too_short_is_refused(train: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(ConfigError, match=r"trainer\.profile_steps: needs 2 steps before it, got 4 of 5 steps"):
        train("run", "trainer.steps=5", "trainer.profile_steps=4")
