"""W&B offline, by its real client: what a dashboard will find."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ramen.logger.wandb import WandB

LINE = {"step": 1, "tokens": 256, "seconds": 0.5, "train_loss": 5.0, "val_loss": None}
CHOICES = {"optimizer": "bam", "mlp": "nff", "optimizer.momentum_schedule": "momentum", "logger": "wandb"}
FACTS = {
    "choices": CHOICES,
    "seed": 0,
    "job": 1,
    "run_id": "abc123",
    "resumed_step": None,
    "data": "1 token",
    "config_hash": "c0ffee",
}


def flatten_keys(config: dict[str, Any]) -> list[str]:
    """Every key at every depth."""
    return [
        key
        for name, value in config.items()
        for key in (name, *(flatten_keys(value) if isinstance(value, dict) else ()))
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a job of a sweep, with a record and a line of diagnostics."""
    folder = tmp_path_factory.mktemp("outputs") / "sweep" / "1-optimizer=bam"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_SILENT", "true")
        logger = WandB(project="p", entity=None, group=None, mode="offline", tags=["mine"])
        logger.start(folder, {"optimizer": {"lr": 0.02}}, FACTS)
        logger.record(LINE)
        logger.diagnose({"step": 100, "layer/0/update_rms": 0.1})
        logger.finish({"status": "finished", "final_val_loss": 3.0, "choices": {}})
    return folder


@pytest.fixture(scope="module")
def logged(folder: Path, read_offline: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    return read_offline(path)


def test_a_run_can_be_grouped_filtered_and_drawn_without_a_click(logged: dict[str, Any], folder: Path) -> None:
    config = logged["config"]
    assert logged["group"] == f"{folder.parents[1].name}/sweep"
    assert logged["name"] == "1-optimizer=bam"
    assert logged["tags"] == ["optimizer=bam", "mlp=nff", "optimizer.momentum_schedule=momentum", "mine"]
    assert config["optimizer"]["lr"] == 0.02
    assert config["choice"] == {key.replace(".", "_"): option for key, option in CHOICES.items()}
    assert config["facts"]["seed"] == 0
    assert not any("." in key for key in flatten_keys(config))  # which W&B could not group by
    assert {"step", "tokens", "seconds"} <= logged["metrics"].keys()
    assert logged["metrics"]["*"] == "step"
    assert logged["exit_code"] == 0


def test_what_is_logged_is_what_there_is(logged: dict[str, Any]) -> None:
    """No evaluation, no loss of one; diagnostics in a section of their own; of the summary what can be sorted by."""
    lines = [{key: value for key, value in line.items() if not key.startswith("_")} for line in logged["history"]]
    assert lines == [
        {key: value for key, value in LINE.items() if value is not None},
        {"step": 100, "diagnostics/layer/0/update_rms": 0.1},
    ]
    assert [line["_step"] for line in logged["history"]] == [1, 100]
    assert (logged["summary"]["status"], logged["summary"]["final_val_loss"]) == ("finished", 3.0)
    assert "choices" not in logged["summary"]


def wandb_logger(**changes: Any) -> WandB:
    return WandB(**({"project": "p", "entity": None, "group": None, "mode": "online", "tags": []} | changes))


@pytest.mark.parametrize("mode", ["auto", "online"])
def test_without_a_key_a_run_is_kept_and_can_be_synced(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    logger = wandb_logger(mode=mode)
    logger.start(tmp_path / "run", {}, FACTS)
    logger.record(LINE)
    logger.finish({"status": "finished"})
    (folder,) = tmp_path.glob("run/wandb/offline-run-*")
    assert "kept offline: there is no API key" in caplog.text
    assert f"wandb sync {folder}" in caplog.text


def test_wandbs_own_variables_win(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_offline: Callable[[Path], dict[str, Any]]
) -> None:
    variables = {"MODE": "offline", "PROJECT": "mine", "RUN_GROUP": "g", "NAME": "n", "TAGS": "a,b", "NOTES": "a note"}
    for name, value in variables.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    logger = wandb_logger()
    logger.start(tmp_path, {}, FACTS)
    assert (logger.run.project, logger.run.notes) == ("mine", "a note")
    logger.finish({"status": "finished"})
    (path,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    logged = read_offline(path)
    assert (logged["group"], logged["name"], sorted(logged["tags"])) == ("g", "n", ["a", "b"])


def test_a_disabled_service_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    logger = wandb_logger()
    logger.start(tmp_path, {}, FACTS)
    logger.record(LINE)
    logger.finish({"status": "finished"})
    assert not list(tmp_path.rglob("*.wandb"))
