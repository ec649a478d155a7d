"""W&B offline: what a dashboard will find."""

from pathlib import Path
from typing import Any

import pytest

from ramen.logger.wandb import WandB

LINE = {"step": 1, "tokens": 256, "seconds": 0.5, "train_loss": 5.0, "val_loss": None}
CHOICES = {"optimizer": "bam", "mlp": "nff", "optimizer.momentum_schedule": "momentum", "logger": "wandb"}
FACTS = {"choices": CHOICES, "seed": 0, "job": 1, "run_id": "abc123", "data": "1 token", "config_hash": "c0ffee"}


def flatten_keys(config: dict[str, Any]) -> list[str]:
    """Every key at every depth."""
    return [
        key
        for name, value in config.items()
        for key in (name, *(flatten_keys(value) if isinstance(value, dict) else ()))
    ]


class FakeRun:
    def __init__(self) -> None:
        self.logged: list[dict[str, Any]] = []
        self.metrics: dict[str, dict[str, Any]] = {}
        self.summary: dict[str, Any] = {}
        self.finished: int | None = None
        self.settings = type("Settings", (), {"sync_dir": "folder"})()

    def log(self, values: dict[str, Any], step: int) -> None:
        assert step == values["step"]
        self.logged.append(values)

    def define_metric(self, name: str, **how: Any) -> None:
        self.metrics[name] = how

    def finish(self, exit_code: int) -> None:
        self.finished = exit_code


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[WandB, FakeRun, dict[str, Any]]:
    import wandb

    run, given = FakeRun(), {}

    def init(**arguments: Any) -> FakeRun:
        given.update(arguments)
        return run

    monkeypatch.setattr(wandb, "init", init)
    logger = WandB(project="p", entity=None, group=None, mode="offline", tags=["mine"])
    logger.start(tmp_path / "sweep" / "1-optimizer=bam", {"optimizer": {"lr": 0.02}}, FACTS)
    return logger, run, given


def test_a_run_can_be_grouped_filtered_and_drawn_without_a_click(
    started: tuple[WandB, FakeRun, dict[str, Any]], tmp_path: Path
) -> None:
    logger, run, given = started
    assert given["group"] == f"{tmp_path.name}/sweep"
    assert given["name"] == "1-optimizer=bam"
    assert given["tags"] == ["optimizer=bam", "mlp=nff", "optimizer.momentum_schedule=momentum", "mine"]
    assert given["config"]["optimizer"]["lr"] == 0.02
    assert given["config"]["choice"] == {
        "optimizer": "bam",
        "mlp": "nff",
        "optimizer_momentum_schedule": "momentum",
        "logger": "wandb",
    }
    assert given["config"]["facts"]["seed"] == 0
    assert not any("." in key for key in flatten_keys(given["config"]))  # which W&B could not group by
    assert {"step", "tokens", "seconds"} <= set(run.metrics)
    logger.record(LINE)
    assert run.logged == [{key: value for key, value in LINE.items() if value is not None}]
    logger.finish({"status": "finished", "final_val_loss": 3.0, "choices": {}})
    assert run.summary == {"status": "finished", "final_val_loss": 3.0}
    assert run.finished == 0


def test_the_real_client_writes_an_offline_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = WandB(project="p", entity=None, group=None, mode="offline", tags=[])
    logger.start(tmp_path / "run", {"optimizer": {"lr": 0.02}}, {**FACTS, "job": None})
    assert logger.run is not None
    logger.record(LINE)
    logger.finish({"status": "finished", "final_val_loss": 3.0})
    assert list((tmp_path / "run").glob("wandb/offline-run-*/*.wandb"))


def test_diagnostics_stand_in_a_section_of_their_own(started: tuple[WandB, FakeRun, dict[str, Any]]) -> None:
    logger, run, _ = started
    logger.diagnose({"step": 100, "layer/0/update_rms": 0.1})
    assert run.logged == [{"step": 100, "diagnostics/layer/0/update_rms": 0.1}]
    assert run.metrics["*"]["step_metric"] == "step"
